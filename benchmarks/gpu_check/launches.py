# SPDX-License-Identifier: Apache-2.0
"""The BiDO step at n = 64: eager, as a CUDA graph, kernels launched, and whether it waits for the device."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import bido_step, own
from benchmarks.gpu_check.facts import seconds
from benchmarks.implementations import as_graph
from benchmarks.problem import Problem, make_step


def step_of(measure: str, n: int, dims: tuple[int, ...], device: str) -> Callable[[], object]:
    """Value and gradients of the step; the gradients are given back."""
    made = make_step(n, dims, bido_step.NUM_CLASSES)
    layers = tuple(z.detach().to(device).requires_grad_() for z in made.layers)
    labels = made.labels.to(device) if made.labels is not None else None
    problem = Problem(
        made.x.to(device), layers, labels, made.num_classes, lambda_x=0.05, lambda_y=0.5
    )
    return lambda: torch.autograd.grad(own.step(measure, problem), layers)


def kernels_of(call: Callable[[], object]) -> list[str]:
    """Names of the kernels that one call launches, in order."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        call()
        torch.cuda.synchronize()
    events = profile.events() or []
    return [e.name[:90] for e in events if e.device_type == torch.autograd.DeviceType.CUDA]


def waits(call: Callable[[], object]) -> str:
    """ "" where the host never waits for the device, else where it does."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def measured(measure: str, device: str) -> dict[str, Any]:
    """One row."""
    gpu = torch.device(device).type == "cuda"
    n, dims = (64, bido_step.DIMS) if gpu else (32, (48, 64, 40))
    call = step_of(measure, n, dims, device)
    row: dict[str, Any] = {"measure": measure, "n": n, "eager_us": 1e6 * seconds(call, device)}
    if gpu:
        names = kernels_of(call)
        row |= {"launches": len(names), "kernels": names, "waits": waits(call)}
        row["graph_us"] = 1e6 * seconds(as_graph(call), device)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for measure in ("hsic", "nhsic", "coco"):
        try:
            rows.append(measured(measure, options.device))
        except Exception as error:  # the next measure may still tell something
            said = str(error).partition("\n")[0]
            rows.append({"measure": measure, "error": f"{type(error).__name__}: {said}"})
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
        print({k: v for k, v in rows[-1].items() if k != "kernels"}, flush=True)
    return 1 if any("error" in row or row.get("waits") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())

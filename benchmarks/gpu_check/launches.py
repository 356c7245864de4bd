# SPDX-License-Identifier: Apache-2.0
"""The BiDO step at n = 64: eager, as a CUDA graph, kernels launched, and whether it waits for the device.

The rivals stand beside it, in eager mode and, where they never wait for the device, as a graph too;
torch.compile, which takes minutes to compile, is in the table of benchmarks.run instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import bido_step
from benchmarks.case import OWN, OpCase
from benchmarks.gate import evaluate
from benchmarks.gpu_check.facts import seconds
from benchmarks.implementations import GRAPH_SETS, as_graph
from benchmarks.input_sets import Rotation, bytes_of, rotation_of, told
from benchmarks.problem import Problem
from benchmarks.registry import STEP_MEASURES, build
from bido_ext.serving.measure import clock_of

RIVALS = ("published", "shared_eager", "hand_backward")


def case_of(measure: str, gpu: bool) -> OpCase:
    """VGG16's step; on a CPU a tiny one."""
    spec = bido_step.spec(measure, 64) if gpu else bido_step.smoke(measure)[0]
    return build(spec)


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


def measured(name: str, case: OpCase, rotation: Rotation[Problem], device: str) -> dict[str, Any]:
    """One implementation of one measure."""
    evaluated = partial(evaluate, case.implementations[name])
    call = rotation.call(evaluated)
    size, count = bytes_of(rotation.sets[0]), len(rotation.sets)
    row: dict[str, Any] = {
        "clock": clock_of(device),
        "input_sets": told(count, size, device),
        "eager_us": 1e6 * seconds(call, device),
    }
    if torch.device(device).type != "cuda":
        return row
    names, waiting = kernels_of(call), waits(call)
    row |= {"launches": len(names), "waits": waiting}
    if name == OWN:
        row["kernels"] = names
    if not waiting:  # a capture would fail, and may leave the device's allocator in its state
        replays = [as_graph(partial(evaluated, p)) for p in rotation.sets[:GRAPH_SETS]]
        row["graph_us"] = 1e6 * seconds(Rotation(replays).call(lambda replay: replay()), device)
        row["graph_input_sets"] = told(len(replays), size, device)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    gpu = torch.device(options.device).type == "cuda"
    cases = {measure: case_of(measure, gpu) for measure in STEP_MEASURES}
    # Ours of every measure first: a rival may take the time that is left.
    for name in (OWN, *RIVALS):
        for measure, case in cases.items():
            if name not in case.implementations:
                continue
            row: dict[str, Any] = {"measure": measure, "implementation": name, "n": case.spec.n}
            try:
                rotation = rotation_of(
                    case.make().to(torch.float32, options.device), options.device
                )
                row |= measured(name, case, rotation, options.device)
            except Exception as error:  # the next one may still tell something
                said = str(error).partition("\n")[0]
                row["error"] = f"{type(error).__name__}: {said}"
            rows.append(row)
            options.out.write_text(json.dumps(rows, indent=1) + "\n")
            print({k: v for k, v in row.items() if k not in ("kernels", "input_sets")}, flush=True)
    ours = [row for row in rows if row["implementation"] == OWN]
    return 1 if any("error" in row or row.get("waits") for row in ours) else 0


if __name__ == "__main__":
    sys.exit(main())

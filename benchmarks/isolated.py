# SPDX-License-Identifier: Apache-2.0
"""Measurements that need a process of their own: peak memory, and rivals with foreign thread pools.

``python -m benchmarks.isolated '<json>'`` prints one JSON line; :func:`memory` and :func:`foreign_time`
start it.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.allocator import keep_freed_memory
from benchmarks.case import CaseSpec
from benchmarks.gate import evaluate, judge, truth_of
from benchmarks.input_sets import rotation_of
from benchmarks.machine import ROOT
from benchmarks.registry import build
from bido_ext.serving.measure import interleaved

#: Fixed malloc thresholds: freed blocks go back to the system, so the peak is what was alive at once.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
WARM_UP_ROWS = 1024


def memory(
    spec: CaseSpec, name: str, dtype: str, device: str, threads: int, timeout_s: float = 3600
) -> dict[str, Any]:
    """Peak memory growth of one value and gradient in a fresh process.

    Returns:
        growth_bytes: high-water mark minus what was resident before (inputs are);
        gradient_bytes: the part of it that the result itself takes;
        growth_nn, beyond_nn: growth, and growth beyond the gradients, in float32 n x n matrices.
        Or error: the reason why there is no number.
    """
    return _child("memory", spec, name, dtype, device, threads, {}, timeout_s)


def foreign_time(
    spec: CaseSpec, name: str, dtype: str, device: str, threads: int, rounds: dict[str, int],
    keep_freed: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Verdict and timing of one implementation alone: {"verdict": ..., "timing": ...} or error."""
    task = "time" if keep_freed else "time with fresh memory"
    return _child(task, spec, name, dtype, device, threads, rounds, 3600)


def _child(
    task: str,
    spec: CaseSpec,
    name: str,
    dtype: str,
    device: str,
    threads: int,
    rounds: dict[str, int],
    timeout_s: float,
) -> dict[str, Any]:
    request = {
        "task": task,
        "spec": spec.to_json(),
        "name": name,
        "dtype": dtype,
        "device": device,
        "threads": threads,
        "rounds": rounds,
    }
    environment = {**os.environ, **(MALLOC if task == "memory" else {})}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.isolated", json.dumps(request)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {timeout_s:g} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": f"exit code {done.returncode}: {last}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(request["threads"])
    spec = CaseSpec.from_json(request["spec"])
    dtype, device = getattr(torch, request["dtype"]), request["device"]
    if request["task"] == "memory":
        return _memory(spec, request["name"], dtype, device)
    if request["task"] == "time":
        keep_freed_memory()
    case = build(spec)
    problem = case.make().to(dtype, device)
    function = case.implementations[request["name"]]
    verdict = judge(request["name"], case, problem, truth_of(case, problem))
    answer: dict[str, Any] = {"verdict": asdict(verdict)}
    if verdict.refusal is None:
        calls = {"it": rotation_of(problem, device).call(partial(evaluate, function))}
        answer["timing"] = asdict(interleaved(calls, device=device, **request["rounds"])["it"])
    return answer


def _memory(spec: CaseSpec, name: str, dtype: torch.dtype, device: str) -> dict[str, Any]:
    case = build(spec)
    function = case.implementations[name]
    # Libraries and the BLAS's own buffers are loaded on fewer rows; torch.compile compiles per shape.
    small = spec if name == "compiled" else spec.with_rows(min(spec.n, WARM_UP_ROWS))
    evaluate(function, build(small).make().to(dtype, device))
    problem = case.make().to(dtype, device)
    gc.collect()
    before = _start_peak(device)
    result = evaluate(function, problem)
    growth = max(0, _peak(device) - before)
    gradients = sum(g.numel() * g.element_size() for g in result.grads)
    square = 4 * spec.n**2
    return {
        "growth_bytes": growth,
        "gradient_bytes": gradients,
        "growth_nn": growth / square,
        "beyond_nn": max(0, growth - gradients) / square,
    }


def _start_peak(device: str) -> int:
    """Forgets the peak so far; returns the bytes in use now."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM := VmRSS
    return _status("VmRSS")


def _peak(device: str) -> int:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _status(key: str) -> int:
    """A line of /proc/self/status in bytes; 0 where it is missing."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    return 0


if __name__ == "__main__":
    print(json.dumps(_answer(json.loads(sys.argv[1]))))

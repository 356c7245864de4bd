# SPDX-License-Identifier: Apache-2.0
"""Everything that needs a GPU, in one command: ``make gpu-check``.

Tests, compute-sanitizer on small cases, then the benchmarks. A stage that fails does not stop the next one;
the summary is written to benchmarks/results/<gpu>/gpu_check.json after every stage.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from typing import Any

import torch

from benchmarks.machine import machine_line
from benchmarks.results import default_path

SANITIZED = "tests/test_gpu.py::test_kernels_pass_the_self_check"
RUN = [sys.executable, "-m", "benchmarks.run", "--device", "cuda"]
#: Name -> command, in order; the tests first, since no figure of a wrong kernel counts.
STAGES: dict[str, list[str]] = {
    "backends": [sys.executable, "-m", "bido_ext"],
    "tests": [sys.executable, "-m", "pytest", "-q", "-m", "gpu and not slow"],
    "memcheck": ["compute-sanitizer", "--tool", "memcheck", sys.executable, "-m", "pytest", "-q", SANITIZED],
    "racecheck": ["compute-sanitizer", "--tool", "racecheck", sys.executable, "-m", "pytest", "-q", SANITIZED],
    "implementations": [sys.executable, "-m", "benchmarks.implementations"],
    "implementations in TF32": [sys.executable, "-m", "benchmarks.implementations", "--precision", "high",
                                "--dtypes", "float32"],
    "steps": [*RUN, "--step", "hsic", "nhsic", "coco", "--n", "64", "256", "1024"],
    "pairs": [*RUN, "--op", "hsic", "--n", "1024", "4096", "8192", "--d", "2048", "12288"],
    "streaming": [*RUN, "--op", "hsic", "--n", "65536", "--d", "2048", "--modes", "streaming",
                  "--no-gate-above", "16384"],
    "training step": [sys.executable, "-m", "benchmarks.train_step", "--device", "cuda", "--measure", "nhsic",
                      "--n", "64", "512", "4096"],
    "training step, hsic": [sys.executable, "-m", "benchmarks.train_step", "--device", "cuda", "--measure",
                            "hsic", "--n", "64", "512", "4096"],
    "slow tests": [sys.executable, "-m", "pytest", "-q", "-m", "gpu and slow"],
}  # fmt: skip
QUICK = ("backends", "tests")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only what serves, and the tests")
    parser.add_argument("--stages", nargs="+", choices=STAGES, help="only these")
    parser.add_argument("--timeout", type=float, default=600, help="seconds per stage")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu-check: PyTorch sees no CUDA device here.", file=sys.stderr)
        return 2
    wanted = arguments.stages or (QUICK if arguments.quick else tuple(STAGES))
    summary: dict[str, Any] = {"machine": machine_line("cuda"), "stages": {}}
    path = default_path("gpu_check", "cuda")
    for name in wanted:
        print(f"== {name}", flush=True)
        summary["stages"][name] = run_stage(STAGES[name], arguments.timeout)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(summary, indent=1) + "\n")
    failed = [name for name, stage in summary["stages"].items() if stage["exit"] not in (0, None)]
    print(f"gpu-check: {len(wanted) - len(failed)} of {len(wanted)} stages passed; {path}")
    return 1 if failed else 0


def run_stage(command: list[str], timeout: float) -> dict[str, Any]:
    """Exit code (None: not run), seconds and the end of what was said."""
    if shutil.which(command[0]) is None:
        return {"command": command, "exit": None, "said": f"{command[0]} is not installed"}
    start = time.monotonic()
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
        )
        code, said = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        code, said = 124, output.decode() if isinstance(output, bytes) else output
    print(said[-6000:], flush=True)
    seconds = round(time.monotonic() - start, 1)
    return {"command": command, "exit": code, "seconds": seconds, "said": said[-4000:]}


if __name__ == "__main__":
    sys.exit(main())

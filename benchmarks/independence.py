# SPDX-License-Identifier: Apache-2.0
"""Tests of independence and distance covariance beside hyppo and dcor, in one run.

python -m benchmarks.independence [--peers-python /tmp/peers/bin/python] [--n 2000] [--threads 1]

The packages live in an interpreter of their own, made for the run unless one with hyppo and dcor is given, and
wait there for their turns (rivals/independence_peers.py); every call of a round is timed in its own process, on
the same samples, in float64. Wall and CPU seconds are kept; ratios are of CPU seconds, for others may use the
machine, too. Values must agree before times count. hyppo would need the better part of an hour for 1000
permutations: its time is that of 1 permutation plus what each of ten more adds, and the record says so
("extrapolated").
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import bido_ext as bx
from benchmarks.case import OWN
from benchmarks.machine import machine_line
from benchmarks.results import Record, default_path, save
from bido_ext._counted import counted

PEERS = Path(__file__).parent / "rivals" / "independence_peers.py"
#: Permutations of the two hyppo calls from which 1000 are extrapolated.
FEW, SOME = 1, 11
GAMMA = 0.05


class DisagreementError(RuntimeError):
    """A package and bido_ext do not compute the same number, so their times do not compare."""


class Peers:
    """The process of the packages."""

    def __init__(self, python: str, threads: int) -> None:
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "NUMBA_NUM_THREADS": str(threads),
        }
        for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # they hold a current numpy back
            environment.pop(name, None)
        self._process = subprocess.Popen(
            [python, str(PEERS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )  # fmt: skip
        self.versions: dict[str, str] = self._read()

    def call(self, name: str, path: Path, permutations: int = 0) -> dict[str, Any]:
        """Seconds, value and p-value of one call."""
        assert self._process.stdin is not None
        request = {"call": name, "path": str(path), "permutations": permutations, "gamma": GAMMA}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                "the interpreter of the packages ended: are hyppo and dcor installed there?"
            )
        return json.loads(line)


Seconds = tuple[float, float]  # wall and CPU
Timed = Callable[[], tuple[Seconds, float]]  # and the value


@dataclass(frozen=True)
class Case:
    """One table: what is computed of which samples, and by whom."""

    name: str
    dims: tuple[int, int]
    classes: int = 0

    def samples(self, n: int) -> tuple[Tensor, Tensor]:
        """x, and y that depends a little on it, float64; labels where there are classes."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(n, self.dims[0], generator=generator, dtype=torch.float64)
        if self.classes:
            return x, torch.randint(0, self.classes, (n,), generator=generator)
        y = torch.randn(n, self.dims[1], generator=generator, dtype=torch.float64)
        return x, y + 0.05 * x[:, : self.dims[1]]


CASES = (
    Case("distance_covariance", (1, 1)),
    Case("distance_covariance", (10, 10)),
    Case("distance_covariance", (100, 100)),
    Case("permutation_distance_covariance", (10, 10)),
    Case("permutation_distance_covariance", (10, 10), classes=10),
    Case("permutation_hsic", (2, 2)),
    Case("permutation_hsic", (10, 10)),
)


def run(case: Case, n: int, permutations: int, rounds: int, threads: int, peers: Peers) -> Record:
    """Measures one case.

    Raises:
        DisagreementError: The values differ.
    """
    torch.set_num_threads(threads)
    x, y = case.samples(n)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.npz"
        other = torch.nn.functional.one_hot(y).double() if case.classes else y
        np.savez(path, x=x.numpy(), y=other.numpy())
        calls = _calls(case, x, y, permutations, peers, path)
        for name, call in calls.items():  # warm-up, compilation of numba, and the comparison
            _check(case, name, call()[1], x, y)
        seconds: dict[str, list[Seconds]] = {name: [] for name in calls}
        order = list(calls)
        for _ in range(rounds):
            random.Random(len(seconds[order[0]])).shuffle(order)
            for name in order:
                seconds[name].append(calls[name]()[0])
    wall, cpu = (
        {name: statistics.median(s[i] for s in taken) for name, taken in seconds.items()}
        for i in (0, 1)
    )
    rows = [
        {
            "name": name,
            "median_ms": 1e3 * wall[name],
            "cpu_ms": 1e3 * cpu[name],
            "samples_ms": [[1e3 * s for s in sample] for sample in taken],
            "times_own": cpu[name] / cpu[OWN],
            "extrapolated": name.startswith("hyppo"),
        }
        for name, taken in seconds.items()
    ]
    tests = case.name.startswith("permutation")
    return {
        "spec": {
            "name": case.name, "n": n, "dims": [*case.dims, case.classes],
            "num_classes": case.classes or None, "permutations": permutations if tests else 0,
        },
        "dtype": "float64",
        "threads": threads,
        "rounds": rounds,
        "floor": {"what": OWN, "ms": 1e3 * wall[OWN]},
        "rows": rows,
        "form": _own_test(case, x, y, 1).form if tests else "",
        "peers": peers.versions,
        "machine": machine_line("cpu"),
    }  # fmt: skip


def _calls(
    case: Case, x: Tensor, y: Tensor, permutations: int, peers: Peers, path: Path
) -> dict[str, Timed]:
    if case.name == "distance_covariance":

        def gradient() -> float:
            leaf, other = x.clone().requires_grad_(), y.clone().requires_grad_()
            value = bx.distance_covariance(leaf, other)
            torch.autograd.grad(value, (leaf, other))
            return float(value.detach())

        return {
            OWN: _timed(lambda: float(bx.distance_covariance(x, y))),
            f"{OWN} with gradients": _timed(gradient),
            "dcor": _of_peer(peers, "dcor distance_covariance", path),
        }
    own: dict[str, Timed] = {OWN: _timed(lambda: _own_test(case, x, y, permutations).statistic)}
    if case.name == "permutation_hsic":
        return own | {"hyppo": _extrapolated(peers, "hyppo Hsic.test", path, permutations)}
    own["dcor"] = _of_peer(peers, "dcor distance_covariance_test", path, permutations)
    if not case.classes:
        own["hyppo"] = _extrapolated(peers, "hyppo Dcorr.test", path, permutations)
    return own


def _own_test(case: Case, x: Tensor, y: Tensor, permutations: int) -> bx.IndependenceTest:
    if case.name == "permutation_hsic":
        kernel = bx.Gaussian((0.5 / GAMMA) ** 0.5, scale_by_dim=False)
        return bx.independence_test(
            x, y, "hsic", permutations=permutations, kernel_x=kernel, kernel_y=kernel
        )
    return bx.independence_test(x, y, "distance_covariance", permutations=permutations)


def _timed(function: Callable[[], float]) -> Timed:
    def call() -> tuple[Seconds, float]:
        began, cpu = time.perf_counter(), time.process_time()
        value = function()
        return (time.perf_counter() - began, time.process_time() - cpu), value

    return call


def _of_peer(peers: Peers, name: str, path: Path, permutations: int = 0) -> Timed:
    def call() -> tuple[Seconds, float]:
        answer = peers.call(name, path, permutations)
        wall, cpu = answer["seconds"]
        return (wall, cpu), answer["value"]

    return call


def _extrapolated(peers: Peers, name: str, path: Path, permutations: int) -> Timed:
    def call() -> tuple[Seconds, float]:
        few, some = (peers.call(name, path, count) for count in (FEW, SOME))
        wall, cpu = (
            a + (b - a) / (SOME - FEW) * (permutations - FEW)
            for a, b in zip(few["seconds"], some["seconds"], strict=True)
        )
        return (wall, cpu), some["value"]

    return call


def _check(case: Case, name: str, value: float, x: Tensor, y: Tensor) -> None:
    """A package's value against bido_ext's; each in its own normalization (docs/independence.md)."""
    n = len(x)
    if case.name == "permutation_hsic":
        kernel = bx.Gaussian((0.5 / GAMMA) ** 0.5, scale_by_dim=False)
        own = float(bx.cka(x, y, kernel, kernel)) ** 0.5
        own = own if name == "hyppo" else float(bx.hsic(x, y, kernel, kernel))
    elif name == "hyppo":
        own = float(bx.distance_correlation(x, y))
    else:
        own = float(bx.distance_covariance(x, y))
        if name == "dcor" and case.name.startswith("permutation"):
            own = n * own**2
    if not abs(value - own) <= 1e-8 * abs(own):
        raise DisagreementError(f"{case.name}, {name}: {value!r}, bido_ext: {own!r}")


def text(record: Record) -> str:
    """The record as lines to print."""
    spec = record["spec"]
    head = f"{spec['name']}: n = {spec['n']}, dims {spec['dims']}, {counted(record['threads'], 'thread')}"
    lines = [f"{head}; {record['form']}"]
    for row in record["rows"]:
        mark = "  (extrapolated)" if row["extrapolated"] else ""
        lines.append(
            f"  {row['name']:<24} {row['median_ms']:10.1f} ms, CPU {row['cpu_ms']:10.1f} ms  "
            f"{row['times_own']:8.2f} x{mark}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.independence", description=__doc__)
    parser.add_argument(
        "--peers-python", help="interpreter with hyppo and dcor; default: a new one"
    )
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--permutations", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cases", type=int, nargs="*", help="by number; default: all")
    parser.add_argument("--json", type=Path, help="file (default benchmarks/results/<device>/...)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        python = options.peers_python or new_interpreter(Path(folder))
        return measure(options, Peers(python, options.threads))


def new_interpreter(folder: Path) -> str:
    """A virtual environment with the packages; needs the network."""
    venv.create(folder / "venv", with_pip=True)
    python = str(folder / "venv" / "bin" / "python")
    environment = os.environ | {"PIP_CONSTRAINT": os.devnull}
    command = [python, "-m", "pip", "install", "--quiet", "hyppo", "dcor"]
    subprocess.run(command, env=environment, check=True)
    return python


def measure(options: argparse.Namespace, peers: Peers) -> int:
    """Runs the cases and ends the packages' process; returns the exit code."""
    cases = range(len(CASES)) if options.cases is None else options.cases
    try:
        for number in cases:
            record = run(
                CASES[number], options.n, options.permutations, options.rounds, options.threads, peers
            )  # fmt: skip
            print(text(record), flush=True)
            save(options.json or default_path("independence", "cpu"), "independence", [record])
    except DisagreementError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    finally:
        peers.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

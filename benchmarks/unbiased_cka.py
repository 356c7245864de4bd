# SPDX-License-Identifier: Apache-2.0
"""Unbiased CKA beside ckatorch and cka-pytorch: ``python -m benchmarks.unbiased_cka [--n 512 2048 4096]``.

Linear kernel, d = 512 for x and y, value and both gradients, float32 and float64. The packages are put into
a folder of their own, which is deleted, or are found in ``--folder``. Every value must be the float64 one to
1e-10 (float32: 1e-4) before times count. Beside them bido_ext's biased CKA; "bido_ext, value alone" has no
gradient, as the function of ckatorch that centers.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import bido_ext as bx
from benchmarks.case import OWN
from benchmarks.machine import machine_line
from benchmarks.results import Record, default_path, save
from benchmarks.rivals import cka_packages
from bido_ext.serving.measure import MIN_ROUNDS, interleaved, paired_ratio

NAME = "unbiased_cka"
D = 512
BIASED, ALONE = "bido_ext, biased", "bido_ext, value alone"


def own(estimator: str, x: Tensor, y: Tensor) -> Tensor:
    return bx.cka(x, y, bx.Linear(), bx.Linear(), estimator=estimator)


def value_and_gradients(cka: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> object:
    x, y = x.requires_grad_(), y.requires_grad_()
    return torch.autograd.grad(cka(x, y), (x, y))


def run(
    n: int, dtype: torch.dtype, threads: int, rounds: int, rivals: dict[str, cka_packages.Cka]
) -> Record:
    """Checks the values, then times all in turns.

    Raises:
        ValueError: A package computes something else.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x = torch.randn(n, D, dtype=dtype)
    y = 0.5 * x + torch.randn(n, D, dtype=dtype)
    unbiased = partial(own, "unbiased")
    truth = float(unbiased(x.double(), y.double()))
    linear = {k: f for k, f in rivals.items() if "Gaussian" not in k}
    checked: dict[str, cka_packages.Cka] = {OWN: unbiased, **linear}
    for name, f in checked.items():
        error = abs(float(f(x, y)) - truth)
        if not error <= (1e-10 if dtype == torch.float64 else 1e-4):
            raise ValueError(f"{name} misses the float64 value by {error:.1e}")
    calls: dict[str, Callable[[], object]] = {}
    timed: dict[str, cka_packages.Cka] = {OWN: unbiased, BIASED: partial(own, "biased"), **linear}
    for name, f in timed.items():
        bare = name.endswith("alone")
        a, b = x.clone(), y.clone()
        calls[name] = partial(f, a, b) if bare else partial(value_and_gradients, f, a, b)
    calls[ALONE] = partial(unbiased, x.clone(), y.clone())
    times = interleaved(calls, rounds, minimum_rounds=1)
    rows = []
    for name, taken in times.items():
        base = times[ALONE if name.endswith("alone") else OWN]
        ratio, low, high = paired_ratio(taken, base)
        row = {"name": name, "median_ms": 1e3 * taken.median, "times_own": ratio}
        rows.append({**row, "times_own_95": [low, high]})
    return {
        "spec": {"name": NAME, "n": n, "dims": [D, D], "num_classes": None},
        "dtype": str(dtype).removeprefix("torch."),
        "threads": threads,
        "rounds": rounds,
        "packages": list(cka_packages.PACKAGES.values()),
        "floor": {"what": BIASED, "ms": 1e3 * times[BIASED].median},
        "rows": rows,
        "machine": machine_line("cpu"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and keeps; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[512, 2048, 4096])
    parser.add_argument("--folder", type=Path, help="has the packages (pip install --target)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS)
    parser.add_argument("--json", type=Path, help="file (default benchmarks/results/<device>/...)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if options.folder is None and not cka_packages.install(folder):
            print("refused: pip cannot get ckatorch and cka-pytorch", file=sys.stderr)
            return 1
        rivals = cka_packages.load(folder)
        for n in options.n:
            for dtype in (torch.float32, torch.float64):
                record = run(n, dtype, options.threads, options.rounds, rivals)
                print(f"n = {n}, d = {D}, {record['dtype']}, {options.threads} threads")
                for row in record["rows"]:
                    print(
                        f"  {row['name']:<24} {row['median_ms']:9.2f} ms  {row['times_own']:6.2f} x"
                    )
                save(options.json or default_path(NAME, "cpu"), NAME, [record])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

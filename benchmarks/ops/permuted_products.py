# SPDX-License-Identifier: Apache-2.0
"""Time of a permutation in each form: ``python -m benchmarks.ops.permuted_products [--n 500 2000]``.

permuted_products (dense), permuted_class_sums (labels) and permuted_factor_products (ranks 10 and 40) beside
the textbook, which gathers one permuted matrix at a time. There is no gradient, hence no case of
benchmarks.run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import machine_line
from benchmarks.results import Record, default_path, save
from bido_ext import reference
from bido_ext.ops.independence_test import draw_permutations
from bido_ext.serving.measure import MIN_ROUNDS, interleaved

NAME = "permuted_products"
TEXTBOOK = "textbook, dense"
#: Permutations of a call, and of the textbook's.
COUNT, FEW = 64, 4


def run(n: int, dtype: torch.dtype, threads: int, rounds: int) -> Record:
    """Milliseconds of one permutation in each form."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    K, L = (reference.double_center(matrix(n, n)).to(dtype) for _ in range(2))
    p = draw_permutations(n, COUNT - 1, 0)
    labels = (torch.arange(n) % 10)[p.long()].int()
    ops = torch.ops.bido_ext
    calls: dict[str, Callable[[], object]] = {
        "dense": partial(ops.permuted_products, K, 0, L, p),
        "classes": partial(ops.permuted_class_sums, K, 0, labels),
        TEXTBOOK: partial(reference.permuted_products, K, L, p[:FEW]),
    }
    for rank in (10, 40):
        A = matrix(n, rank)
        calls[f"factors of rank {rank}"] = partial(ops.permuted_factor_products, A, A, p)
    taken = interleaved(calls, rounds)
    each = {k: 1e3 * t.median / (FEW if k == TEXTBOOK else COUNT) for k, t in taken.items()}
    return {
        "spec": {"name": NAME, "n": n, "dims": [], "num_classes": None, "permutations": COUNT},
        "dtype": str(dtype).removeprefix("torch."),
        "threads": threads,
        "rounds": rounds,
        "floor": {"what": TEXTBOOK, "ms": each[TEXTBOOK]},
        "rows": [
            {"name": name, "median_ms": ms, "textbook_over_it": each[TEXTBOOK] / ms}
            for name, ms in each.items()
        ],
        "machine": machine_line("cpu"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and keeps; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS)
    parser.add_argument("--json", type=Path, help="file (default benchmarks/results/<device>/...)")
    options = parser.parse_args(arguments)
    for n in options.n:
        for dtype in (torch.float32, torch.float64):
            record = run(n, dtype, options.threads, options.rounds)
            print(f"n = {n}, {record['dtype']}, {options.threads} threads")
            for row in record["rows"]:
                print(
                    f"  {row['name']:<20} {row['median_ms']:9.3f} ms  {row['textbook_over_it']:8.1f} x"
                )
            save(options.json or default_path(NAME, "cpu"), NAME, [record])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

# SPDX-License-Identifier: Apache-2.0
"""distance_products beside all pairs: ``python -m benchmarks.ops.distance_products [--n 1000 10000]``.

The op gets sorted samples, and so do all pairs (the op's own form for devices without a kernel). There is no
gradient, hence no case of benchmarks.run. dcor's algorithms: ``python -m benchmarks.independence``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.machine import machine_line
from benchmarks.results import Record, default_path, save
from bido_ext.ops import distance_products as op
from bido_ext.serving.measure import MIN_ROUNDS, interleaved

NAME = "distance_products"
PAIRS = "all pairs"


def run(n: int, threads: int, rounds: int) -> Record:
    """Milliseconds of the sum over n samples."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(2))
    x = x.sort().values
    calls: dict[str, Callable[[], object]] = {
        NAME: partial(op.distance_products, x, y),
        PAIRS: partial(op._default, x, y),
    }
    each = {k: 1e3 * t.median for k, t in interleaved(calls, rounds).items()}
    return {
        "spec": {"name": NAME, "n": n, "dims": [1, 1], "num_classes": None},
        "dtype": "float64",
        "threads": threads,
        "rounds": rounds,
        "floor": {"what": PAIRS, "ms": each[PAIRS]},
        "rows": [
            {"name": name, "median_ms": ms, "pairs_over_it": each[PAIRS] / ms}
            for name, ms in each.items()
        ],
        "machine": machine_line("cpu"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and keeps; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS)
    parser.add_argument("--json", type=Path, help="file (default benchmarks/results/<device>/...)")
    options = parser.parse_args(arguments)
    for n in options.n:
        record = run(n, options.threads, options.rounds)
        print(f"n = {n}, {options.threads} threads")
        for row in record["rows"]:
            print(f"  {row['name']:<20} {row['median_ms']:9.3f} ms  {row['pairs_over_it']:8.1f} x")
        save(options.json or default_path(NAME, "cpu"), NAME, [record])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

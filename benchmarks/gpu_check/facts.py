# SPDX-License-Identifier: Apache-2.0
"""The card, its versions, and its own rates of copying and of products: the floors of all other steps."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.input_sets import cache_bytes
from benchmarks.machine import machine_line
from bido_ext import backends
from bido_ext.serving.measure import clock_of, interleaved


def seconds(call: Callable[[], object], device: str) -> float:
    """Median of a call, on a GPU by its own events."""
    return interleaved({"it": call}, device=device)["it"].median


def copy_rate(device: str, mebibytes: int) -> float:
    """Bytes read and written a second, in GB/s."""
    source = torch.ones(mebibytes << 18, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), device) / 1e9


def product_rate(device: str, n: int, dtype: torch.dtype, precision: str) -> float:
    """Floating point operations a second of an n x n x n product, in GF/s."""
    torch.set_float32_matmul_precision(precision)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * n**3 / seconds(lambda: torch.mm(a, b, out=out), device) / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    gpu = torch.device(options.device).type == "cuda"
    if gpu and not torch.cuda.is_available():
        print("PyTorch sees no CUDA device here (--device cpu rehearses).", file=sys.stderr)
        return 2
    n = 8192 if gpu else 512
    result: dict[str, Any] = {
        "machine": machine_line(options.device),
        "backends": [vars(row) for row in backends()],
        "copy_gb_s": copy_rate(options.device, 1024 if gpu else 64),
        "product_n": n,
        # Operands of both are far larger than the cache: one set serves.
        "clock": clock_of(options.device),
        "l2_bytes": cache_bytes(options.device) or None,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    kinds = {
        "bfloat16": (torch.bfloat16, "highest"), "tf32": (torch.float32, "high"),
        "float32": (torch.float32, "highest"), "float64": (torch.float64, "highest"),
    }  # fmt: skip
    for name, (dtype, precision) in kinds.items():
        result[f"product_{name}_gf_s"] = product_rate(options.device, n, dtype, precision)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{name}: {result[f'product_{name}_gf_s']:.0f} GF/s", flush=True)
    print(f"copy: {result['copy_gb_s']:.0f} GB/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

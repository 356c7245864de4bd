# SPDX-License-Identifier: Apache-2.0
"""coco(X, Z), Gaussian kernels, Frobenius norm as published."""

from __future__ import annotations

from benchmarks.case import CaseSpec, OpCase
from benchmarks.ops._pair import pair_case, pair_specs

#: In n x n x n products: the square of a symmetric matrix (half a product), and Kc Lc^2.
CUBIC = 1.5


def case(spec: CaseSpec) -> OpCase:
    """(n, d) of spec."""
    return pair_case(spec, CUBIC)


def defaults() -> list[CaseSpec]:
    """Batch sizes of training; beyond, n^3 decides."""
    return pair_specs("coco", (64, 256, 1024), (512, 2048))


def smoke() -> list[CaseSpec]:
    """Seconds."""
    return pair_specs("coco", (32,), (24,))

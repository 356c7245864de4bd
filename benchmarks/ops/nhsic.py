# SPDX-License-Identifier: Apache-2.0
"""nhsic(X, Z), Gaussian kernels, eps = 1e-5."""

from __future__ import annotations

from benchmarks.case import CaseSpec, OpCase
from benchmarks.ops._pair import pair_case, pair_specs

#: In n x n x n products: a Cholesky factor and its inverse of X and of Z are half a product each,
#: P T P of the backward is two.
CUBIC = 3.0


def case(spec: CaseSpec) -> OpCase:
    """(n, d) of spec."""
    return pair_case(spec, CUBIC)


def defaults() -> list[CaseSpec]:
    """Batch sizes of training; beyond, n^3 decides."""
    return pair_specs("nhsic", (64, 256, 1024), (512, 2048))


def smoke() -> list[CaseSpec]:
    """Seconds."""
    return pair_specs("nhsic", (32,), (24,))

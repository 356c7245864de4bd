# SPDX-License-Identifier: Apache-2.0
"""cka(X, Z), Gaussian kernels."""

from __future__ import annotations

from benchmarks.case import CaseSpec, OpCase
from benchmarks.ops._pair import pair_case, pair_specs


def case(spec: CaseSpec) -> OpCase:
    """(n, d) of spec."""
    return pair_case(spec)


def defaults() -> list[CaseSpec]:
    """As hsic, which it is made of."""
    return pair_specs("cka", (64, 256, 1024, 4096), (512, 2048))


def smoke() -> list[CaseSpec]:
    """Seconds."""
    return pair_specs("cka", (32,), (24,))

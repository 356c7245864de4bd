# SPDX-License-Identifier: Apache-2.0
"""double_center(K): H K H and its gradient, pure memory traffic."""

from __future__ import annotations

from functools import partial

from benchmarks import own, truth
from benchmarks.case import OWN, CaseSpec, OpCase
from benchmarks.problem import make_matrix
from benchmarks.rivals import center_rivals
from bido_ext.serving.floor import copy_floor


def case(spec: CaseSpec) -> OpCase:
    """(n, n) of spec; it has no other dimension."""
    return OpCase(
        spec=spec,
        make=partial(make_matrix, spec.n),
        implementations={OWN: own.center, **center_rivals()},
        truth=truth.center_truth,
        floor=copy_floor(spec.n),
        bytes_moved=2 * 2 * 4 * spec.n**2,  # read and written, forward and backward
    )


def defaults() -> list[CaseSpec]:
    """From cache to memory."""
    return [CaseSpec("double_center", n) for n in (256, 1024, 4096)]


def smoke() -> list[CaseSpec]:
    """Seconds."""
    return [CaseSpec("double_center", 32)]

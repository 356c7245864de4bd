# SPDX-License-Identifier: Apache-2.0
"""gram_stack(Z_1 .. Z_m): K - 1 of every variable of a group in one call, and their gradients."""

from __future__ import annotations

from functools import partial

from benchmarks import own, truth
from benchmarks.case import OWN, CaseSpec, OpCase, feature_bytes
from benchmarks.problem import make_stack
from benchmarks.rivals import stack_rivals
from bido_ext.serving.floor import stack_floor

#: Three widths of a VGG16 step: a wide early layer to a narrow late one.
DIMS = (12288, 8192, 2048)


def case(spec: CaseSpec) -> OpCase:
    """n and the width of each variable."""
    return OpCase(
        spec=spec,
        make=partial(make_stack, spec.n, spec.dims),
        implementations={OWN: own.gram_stack, **stack_rivals()},
        truth=truth.stack_truth,
        floor=stack_floor(spec.n, spec.dims),
        bytes_moved=feature_bytes(spec.n, (), spec.dims),
    )


def defaults() -> list[CaseSpec]:
    """Batches of training."""
    return [CaseSpec("gram_stack", n, DIMS) for n in (64, 256, 1024)]


def smoke() -> list[CaseSpec]:
    """Seconds."""
    return [CaseSpec("gram_stack", 32, (24, 40, 7))]

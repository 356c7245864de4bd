# SPDX-License-Identifier: Apache-2.0
"""gaussian_gram(X): K and, for a given gradient of K, the gradient of X."""

from __future__ import annotations

from functools import partial

from benchmarks import own, truth
from benchmarks.case import OWN, CaseSpec, OpCase, feature_bytes
from benchmarks.ops._pair import pair_specs
from benchmarks.problem import make_gram
from benchmarks.rivals import gram_rivals
from bido_ext.serving.floor import gram_floor


def case(spec: CaseSpec) -> OpCase:
    """(n, d) of spec."""
    (d,) = spec.dims
    return OpCase(
        spec=spec,
        make=partial(make_gram, spec.n, d),
        implementations={OWN: own.gram, **gram_rivals()},
        truth=truth.gram_truth,
        floor=gram_floor(spec.n, d),
        bytes_moved=feature_bytes(spec.n, (), (d,)),
    )


def defaults() -> list[CaseSpec]:
    """Batches and data sets."""
    return pair_specs("gaussian_gram", (64, 256, 1024, 4096), (512, 12288))


def smoke() -> list[CaseSpec]:
    """Seconds."""
    return pair_specs("gaussian_gram", (32,), (24,))

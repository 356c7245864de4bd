# SPDX-License-Identifier: Apache-2.0
"""What the four measures share: d(X, Z) of two (n, d) variables, value and gradient in Z."""

from __future__ import annotations

from functools import partial

from benchmarks import own, truth
from benchmarks.case import OWN, CaseSpec, Implementation, OpCase, feature_bytes
from benchmarks.problem import make_pair
from benchmarks.rivals import measure_rivals
from bido_ext.serving.floor import pair_floor


def pair_case(spec: CaseSpec, cubic: float = 0.0) -> OpCase:
    """The case of the measure ``spec.name``; ``cubic``: n x n x n products it cannot avoid."""
    (d,) = spec.dims
    return OpCase(
        spec=spec,
        make=partial(make_pair, spec.n, d),
        implementations={
            OWN: partial(own.pair, spec.name),
            **_modes(spec),
            **measure_rivals(spec.name, labels=False),
        },
        truth=_truth(spec.name),
        floor=pair_floor(spec.n, d, cubic),
        bytes_moved=feature_bytes(spec.n, (d,), (d,)),
    )


def _modes(spec: CaseSpec) -> dict[str, Implementation]:
    if spec.name not in ("hsic", "cka") or spec.n < own.STREAM_FROM:
        return {}
    return {f"{OWN} streaming": partial(own.streaming, spec.name)}


def _truth(measure: str) -> Implementation:
    return truth.hsic_truth if measure == "hsic" else partial(truth.measure_truth, measure)


def pair_specs(name: str, rows: tuple[int, ...], dims: tuple[int, ...]) -> list[CaseSpec]:
    """Every n with every d."""
    return [CaseSpec(name, n, (d,)) for n in rows for d in dims]

# SPDX-License-Identifier: Apache-2.0
"""hsic(X, Z) in O(n) memory: streamed tiles against the dense regime and the rivals."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from benchmarks import own
from benchmarks.ops._pair import pair_case, pair_specs
from benchmarks.registry import OWN, CaseSpec, OpCase
from benchmarks.truth import DENSE_UP_TO


def case(spec: CaseSpec) -> OpCase:
    """(n, d) of spec; above DENSE_UP_TO samples bido_ext runs alone: the others need n x n matrices."""
    pair = pair_case(CaseSpec("hsic", spec.n, spec.dims))
    others = {
        (f"{OWN} dense" if name == OWN else name): function
        for name, function in pair.implementations.items()
        if spec.n <= DENSE_UP_TO and name != f"{OWN} streaming"
    }
    streaming = partial(own.streaming, "hsic")
    return replace(pair, spec=spec, implementations={OWN: streaming, **others})


def defaults() -> list[CaseSpec]:
    """To n where one n x n matrix is 4 GiB."""
    return pair_specs("hsic_streaming", (1024, 4096, 8192, 16384, 32768), (512,))


def smoke() -> list[CaseSpec]:
    """Seconds."""
    return pair_specs("hsic_streaming", (32,), (24,))

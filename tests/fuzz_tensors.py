# SPDX-License-Identifier: Apache-2.0
"""Tensors of all shapes, dtypes, layouts and values, and things that are no tensors, for tests/fuzz_ops.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
OTHERS = [torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn]
NONSENSE = [
    None,
    "x",
    "",
    3,
    -1,
    2.5,
    True,
    [],
    [1.0],
    {},
    (2, 2),
    b"x",
    object(),
    np.ones((3, 2)),
    int,
]

nonsense = st.sampled_from(NONSENSE)
sizes = st.integers(0, 9) | st.sampled_from([16, 33, 64, 130])


def likely(good: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly good, so that calls get past the first check."""
    return st.integers(0, 9).flatmap(lambda i: odd if i == 0 else good)


def fill(shape: tuple[int, ...], dtype: torch.dtype, seed: int, values: str) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    t = torch.rand(shape, generator=generator, dtype=torch.float64)
    t = {"zeros": t * 0, "huge": t * 1e30, "negative": t - 0.5, "tiny": t * 1e-30}.get(values, t)
    if values in ("nan", "inf") and t.numel():
        t.view(-1)[seed % t.numel()] = float(values)
    if dtype in FLOATS or dtype.is_complex or dtype == torch.float8_e4m3fn:
        return t.to(dtype)
    return (t * 4).nan_to_num(0, 0, 0).clamp(-100, 100).to(dtype)


def lay_out(t: Tensor, layout: str) -> Tensor:
    if layout == "transposed" and t.dim() >= 2:
        return t.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "strided" and t.dim() >= 1:
        return torch.stack([t, t], -1)[..., 0]
    if layout == "expanded" and t.dim() >= 1 and t.shape[0]:
        return t[:1].expand(t.shape)
    if layout == "offset":
        return torch.cat([t.new_zeros(1), t.reshape(-1)])[1:].view(t.shape)
    if layout == "sparse" and t.dim() == 2 and t.dtype in FLOATS[:2]:
        return t.to_sparse()
    if layout == "csr" and t.dim() == 2 and t.dtype in FLOATS[:2] and t.numel():
        return t.to_sparse_csr()
    if layout == "meta":
        return t.to("meta")
    if layout == "gradient" and t.dtype in FLOATS:
        return t.clone().requires_grad_()
    if layout == "parameter" and t.dtype in FLOATS:
        return torch.nn.Parameter(t.clone())
    if layout == "negated" and t.is_complex():
        return t.conj()
    return t


LAYOUTS = ["plain", "gradient", "parameter", "transposed", "strided", "expanded", "offset"]
ODD_LAYOUTS = ["sparse", "csr", "meta", "negated"]
VALUES = ["rand"] * 6 + ["zeros", "negative", "tiny"]
ODD_VALUES = ["nan", "inf", "huge"]


@st.composite
def tensors(
    draw: st.DrawFn, shapes: st.SearchStrategy[tuple[int, ...]], integers: bool = False
) -> Tensor:
    good = OTHERS[:3] if integers else FLOATS
    dtype = draw(likely(st.sampled_from(good), st.sampled_from(FLOATS + OTHERS)))
    values = draw(likely(st.sampled_from(VALUES), st.sampled_from(ODD_VALUES)))
    layout = draw(likely(st.sampled_from(LAYOUTS), st.sampled_from(ODD_LAYOUTS)))
    seed = draw(st.integers(0, 99))
    return lay_out(fill(draw(shapes), dtype, seed, values), layout)


any_shape = st.lists(sizes, max_size=4).map(tuple)


def features(n: int) -> st.SearchStrategy[Any]:
    shapes = likely(st.tuples(st.just(n), st.integers(1, 40)), any_shape)
    return likely(tensors(shapes), nonsense)


def labels(n: int) -> st.SearchStrategy[Any]:
    return tensors(likely(st.just((n,)), any_shape), integers=True)

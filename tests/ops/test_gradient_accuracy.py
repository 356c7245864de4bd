# SPDX-License-Identifier: Apache-2.0
"""float32 against float64 at BiDO's bandwidth on image-like rows that share a brightness offset."""

from __future__ import annotations

import pytest
import torch
from oracle import features, relative_error

import bido_ext as bx

#: The published code reaches 5e-3 (nHSIC); these are the package's promises.
VALUE_TOLERANCE = {"hsic": 1e-5, "cka": 1e-5, "coco": 1e-5, "nhsic": 1e-4}
GRADIENT_TOLERANCE = {"hsic": 1e-5, "cka": 1e-5, "coco": 1e-5, "nhsic": 5e-5}


@pytest.mark.parametrize("n", [64, 256, 1024])
@pytest.mark.parametrize("measure", GRADIENT_TOLERANCE)
@pytest.mark.parametrize("target", ["images", "labels"])
def test_float32_gradient(n: int, measure: str, target: str) -> None:
    x = features(n, 12288 if n < 1024 else 2048)
    hidden = torch.relu(torch.randn(n, 512, dtype=torch.float64) + x[:, :512])
    other = x if target == "images" else torch.randint(0, 16, (n,))
    results = []
    for dtype in (torch.float64, torch.float32):
        leaf = hidden.detach().to(dtype, copy=True).requires_grad_()
        value = getattr(bx, measure)(leaf, other.to(dtype) if target == "images" else other)
        value.backward()
        results.append((value.detach(), leaf.grad))
    (value64, grad64), (value32, grad32) = results
    assert relative_error(value32, value64) < VALUE_TOLERANCE[measure]
    assert relative_error(grad32, grad64) < GRADIENT_TOLERANCE[measure]


@pytest.mark.parametrize("measure", ["hsic", "cka", "coco", "nhsic"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_precision_features_lose_only_their_own_rounding(
    measure: str, dtype: torch.dtype
) -> None:
    x, y = features(64, 3000, dtype), torch.arange(64) % 8
    value = getattr(bx, measure)(x, y)
    assert value.dtype == torch.float32
    assert relative_error(value, getattr(bx, measure)(x.double(), y)) < 1e-4

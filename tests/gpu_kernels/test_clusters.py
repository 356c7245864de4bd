# SPDX-License-Identifier: Apache-2.0
"""Gradients whose terms cancel, by the kernels of a GPU, which have no second try in float64: right, or NaN."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cuda_emulator import public
from oracle import relative_error

import bido_ext as bx

#: What the bounds of a GPU allow (bido_ext/triton_kernels/resolution.py).
ALLOWED = 5e-5
KERNELS = [
    bx.Gaussian(2000.0, scale_by_dim=False),
    bx.Laplacian(2000.0, scale_by_dim=False),
    bx.RationalQuadratic(1.0, 2000.0, scale_by_dim=False),
    bx.InverseMultiquadric(),
    bx.Energy(),
    bx.Linear(),
]


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("measure", ["hsic", "cka", "nhsic"])
@pytest.mark.parametrize("n", [8, 40])
def test_clusters_far_apart(
    kernels: Any, n: int, measure: str, kernel: bx.Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 0 is far from most others, and the labels are those of near pairs (tests/ops/test_gradient_noise.py)."""
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    x[::3] += 3000
    y = torch.arange(n) // 3 % 2
    wide, leaf = x.double().requires_grad_(), x.clone().requires_grad_()
    truth = getattr(bx, measure)(wide, y, kernel)
    truth.backward()
    public.serve(kernels.functions, monkeypatch)
    try:
        value = getattr(bx, measure)(leaf, y, kernel)
    except ValueError:  # a CPU says so where the value is NaN
        return
    value.backward()
    assert relative_error(value.detach(), truth.detach()) < ALLOWED
    assert leaf.grad is not None
    if bool(torch.isfinite(leaf.grad).all()):
        assert relative_error(leaf.grad, wide.grad) < ALLOWED

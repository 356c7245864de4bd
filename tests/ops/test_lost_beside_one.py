# SPDX-License-Identifier: Apache-2.0
"""What float64 loses in K - 1, or beside a common offset, and the ops need not."""

from __future__ import annotations

import property_cases as cases
import pytest
import torch
from compositions import serve_compositions
from oracle import relative_error
from polynomial_in_digits import centered_gram, gradient_of_features
from torch import Tensor

import bido_ext as bx


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("served_by", ["kernel", "composition"])
@pytest.mark.parametrize("measure", ["mmd", "coco", "coco fro", "nhsic", "cka"])
@pytest.mark.parametrize("n", [20, 60])
@pytest.mark.parametrize("scale", [1e3, 1e4, 1e6])
def test_heavy_tails(
    measure: str, n: int, scale: float, served_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of K = 1e-22 nothing is left beside 1; its gradient, a power of the distance, was noise."""
    if served_by == "composition":
        serve_compositions(monkeypatch)
    kernel = bx.RationalQuadratic(3.0, 1.0)
    x, y = scale * normal(n, 3), torch.arange(n) % 3
    x[3:5] = x[5] + 0.1 * normal(2, 3)
    leaf, wide, other = x.clone().requires_grad_(), x.double(), torch.zeros(2, 3)
    name, _, norm = measure.partition(" ")
    labels = (y[:, None] == y[None]).double()
    if name == "mmd":
        bx.mmd(leaf, other, kernel).backward()
        wide = torch.cat([wide, other.double()])
    else:
        settings = {"norm": norm} if norm else {"eps": 1e-3} if name == "nhsic" else {}
        getattr(bx, name)(leaf, y, kernel, **settings).backward()
    E = cases._gram(wide, kernel).requires_grad_()
    if name == "mmd":
        truth = bx.reference.mmd(E, n)
    elif name == "coco":
        truth = bx.reference.coco(E, labels, norm or "spectral")
    elif name == "nhsic":
        truth = bx.reference.nhsic(E, labels, 1e-3)
    else:
        truth = bx.reference.cka(E, labels)
    (G,) = torch.autograd.grad(truth, E)
    gradient = cases._of_features(wide, kernel, E.detach(), G, G.abs())[0][:n]
    far = torch.ones(n, dtype=torch.bool)
    far[3:6] = False  # whose K is near 1, and whose gradient is all of the norm
    assert leaf.grad is not None
    assert relative_error(leaf.grad, gradient) < 1e-5
    assert relative_error(leaf.grad[far], gradient[far]) < 1e-4


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_the_polynomial_kernel_beside_an_offset(degree: int, offset: float) -> None:
    """<a, b> is nearly all offset, which centering takes away: at 1e6 the Gram matrix was 1e-4 off."""
    kernel, x = bx.Polynomial(degree), normal(7, 4) + offset
    wide, g = x.double(), normal(7, 7).double()
    g = g + g.T
    leaf = x.double().requires_grad_()  # the gradient is beyond float32
    made = kernel.gram_up_to_centering(leaf)
    made.backward(g)
    assert relative_error(made.detach(), centered_gram(wide, kernel)) < 1e-9
    assert leaf.grad is not None
    assert relative_error(leaf.grad, gradient_of_features(wide, kernel, g, g.abs())[0]) < 1e-6


def test_a_kernel_that_overflows_is_named() -> None:
    x = 1e15 * normal(10, 4)
    with pytest.raises(
        ValueError, match=r"made for x contains NaN or Inf.*overflow float32\. Scale x down"
    ):
        bx.hsic(x, torch.arange(10) % 3, kernel_x=bx.Polynomial(2))
    x[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or Inf"):
        bx.hsic(x, torch.arange(10) % 3)

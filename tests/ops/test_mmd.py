# SPDX-License-Identifier: Apache-2.0
"""Squared maximum mean discrepancy against the textbook in float64."""

from __future__ import annotations

import pytest
import torch
from oracle import FLOORS, each_dtype, features, readable, relative_error
from torch import Tensor

import bido_ext as bx
from bido_ext import reference

each_estimator = pytest.mark.parametrize("estimator", ["biased", "unbiased"])
KERNELS: dict[str, bx.Kernel] = {
    "gaussian": bx.Gaussian(),
    "narrow": bx.Gaussian(0.3),
    "median": bx.Gaussian("median"),
    "linear": bx.Linear(),
    "inverse multiquadric": bx.InverseMultiquadric(),
    "distance": bx.Energy(),
}
each_kernel = pytest.mark.parametrize("kernel", KERNELS)


def gram(kernel: bx.Kernel, z: Tensor) -> Tensor:
    """The textbook's Gram matrix itself, not one up to centering."""
    if isinstance(kernel, bx.Gaussian):
        D = (z[:, None] - z[None, :]).square().sum(2)
        n = len(z)
        if kernel.sigma == "median":
            upper = D[torch.triu_indices(n, n, 1).unbind()].sort().values
            return torch.exp(-0.5 * D / upper[(len(upper) - 1) // 2].detach())
        return torch.exp(-D / (2 * float(kernel.sigma) ** 2 * z.shape[1]))
    if isinstance(kernel, bx.Linear):
        return z @ z.T
    if isinstance(kernel, bx.Energy):
        return -reference.distance_matrix(z)
    return (1 + (z[:, None] - z[None, :]).square().sum(2)) ** -0.5


def truth_of(kernel: str, x: Tensor, y: Tensor, estimator: str) -> Tensor:
    z = torch.cat([x.double(), y.double()])
    return reference.mmd(gram(KERNELS[kernel], z), len(x), estimator == "unbiased")


@each_kernel
@each_estimator
@each_dtype
@pytest.mark.parametrize("shape", [(2, 3, 1), (63, 40, 37), (130, 129, 5)], ids=readable)
def test_forward(
    kernel: str, estimator: str, dtype: torch.dtype, shape: tuple[int, int, int]
) -> None:
    n, m, d = shape
    x, y = features(n, d).to(dtype), (features(m, d, seed=1) * 1.3 + 0.1).to(dtype)
    value = bx.mmd(x, y, KERNELS[kernel], estimator)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    truth = truth_of(kernel, x, y, estimator)
    # What the sums are made of: rounded entries of K up to centering, whose differences cancel.
    z = torch.cat([x, y]).double()
    K = reference.double_center(gram(KERNELS[kernel], z))
    floor = FLOORS[torch.float64] if dtype == torch.float64 else FLOORS[torch.float32]
    assert abs(float(value) - float(truth)) <= floor * max(abs(float(truth)), float(K.abs().max()))


@each_kernel
@each_estimator
def test_backward(kernel: str, estimator: str) -> None:
    x, y = features(30, 5).requires_grad_(), (features(21, 5, seed=1) + 0.2).requires_grad_()
    expected = torch.autograd.grad(truth_of(kernel, x, y, estimator), (x, y))
    actual = torch.autograd.grad(bx.mmd(x, y, KERNELS[kernel], estimator), (x, y))
    for one, other in zip(actual, expected, strict=True):
        assert relative_error(one, other) < 1e-10


@each_estimator
def test_gradcheck(estimator: str) -> None:
    x, y = features(5, 3).requires_grad_(), features(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: bx.mmd(x, y, estimator=estimator), (x, y))


#: Samples whose three means nearly cancel; the truth is float64, which test_forward compares with the textbook.
#: float32 Gram matrices left errors of 3e-4 (one column), 4e-5 (rows of zeros, in the gradient), 1 (a far sample
#: and Polynomial) and 1 (all but one sample equal).
def hard_samples(kind: str) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x, y = torch.randn(70, 6), torch.randn(50, 6)
    if kind == "near":
        y = x[:50] * 1.001
    elif kind == "one column":
        x, y = x[:, :1], x[torch.randperm(70)[:50], :1]
    elif kind == "rows of zeros":
        x[5:], y[4:] = 0, 0
    elif kind == "far sample":
        x[3], y[4] = 1e5, 1e5
    else:
        x[:], y[:] = 1, 1
        x[3] = 1.001
    return x, y


HARD_KERNELS: dict[str, bx.Kernel] = {
    **KERNELS,
    "rational quadratic": bx.RationalQuadratic(0.1, 1.0),
    "polynomial": bx.Polynomial(2, 0.0),
    "mixture": bx.Mixture([bx.Linear(), bx.Gaussian()]),
}


@each_estimator
@pytest.mark.parametrize("kernel", HARD_KERNELS)
@pytest.mark.parametrize(
    "kind", ["near", "one column", "rows of zeros", "far sample", "one differs"]
)
def test_float32_keeps_what_three_means_leave(kind: str, kernel: str, estimator: str) -> None:
    x, y = (sample.requires_grad_() for sample in hard_samples(kind))
    wide = [sample.detach().double().requires_grad_() for sample in (x, y)]
    truth = bx.mmd(*wide, HARD_KERNELS[kernel], estimator)
    value = bx.mmd(x, y, HARD_KERNELS[kernel], estimator)
    assert relative_error(value.detach(), truth.detach()) < 1e-7
    for one, other in zip(
        torch.autograd.grad(value, (x, y)), torch.autograd.grad(truth, wide), strict=True
    ):
        assert relative_error(one, other) < 2e-7


@each_kernel
def test_of_a_sample_with_itself(kernel: str) -> None:
    x = features(20, 3)
    assert abs(float(bx.mmd(x, x, KERNELS[kernel]))) < 1e-14


def test_unbiased_is_unbiased() -> None:
    """The mean over many pairs of samples of one distribution is 0 within 4 standard errors."""
    generator = torch.Generator().manual_seed(0)
    values = torch.stack(
        [
            bx.mmd(
                *torch.randn(2, 10, 2, generator=generator).double(),
                sigma=1.0,
                estimator="unbiased",
            )
            for _ in range(400)
        ]
    )
    assert abs(float(values.mean())) < 4 * float(values.std()) / 20
    assert float(values.min()) < 0 < float(values.max())


def test_sigma_is_short_for_a_gaussian() -> None:
    x, y = features(9, 3), features(8, 3, seed=1)
    assert float(bx.mmd(x, y, sigma=2.0)) == float(bx.mmd(x, y, bx.Gaussian(2.0)))
    mixed = bx.mmd(x.float(), y)
    assert mixed.dtype == torch.float64


def test_compile_and_transforms() -> None:
    x, y = features(6, 3), features(5, 3, seed=1)
    compiled = torch.compile(bx.mmd, fullgraph=True, backend="aot_eager")
    assert relative_error(compiled(x, y), bx.mmd(x, y)) < 1e-12
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(bx.mmd(leaf, y), leaf)
    torch.testing.assert_close(torch.func.grad(bx.mmd)(x, y), expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": "x"}, TypeError, "x must be a tensor, got str"),
        ({"y": torch.arange(5)}, TypeError, "y must be float64, float32, bfloat16 or float16"),
        ({"y": torch.rand(5, 2)}, ValueError, "same number of columns, got 3 and 2"),
        ({"y": torch.rand(1, 3), "estimator": "unbiased"}, ValueError, r"y has 1 sample\(s\), the unbiased"),
        ({"x": torch.rand(0, 3)}, ValueError, r"x has 0 sample\(s\)"),
        ({"kernel": 5.0}, TypeError, "kernel must be a kernel such as Gaussian"),
        ({"kernel": bx.Linear(), "sigma": 1.0}, ValueError, "kernel and sigma are both given"),
        ({"estimator": "u"}, ValueError, "estimator must be one of biased, unbiased; got 'u'"),
        ({"x": torch.full((6, 3), torch.nan)}, ValueError, r"x contain\(s\) NaN or Inf"),
        ({"y": torch.rand(5, 3, device="meta")}, ValueError, "x is on cpu and y on meta"),
    ],
)  # fmt: skip
def test_bad_input(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bx.mmd(**{"x": torch.rand(6, 3), "y": torch.rand(5, 3), **arguments})

# SPDX-License-Identifier: Apache-2.0
"""The first-use self-check: an implementation against the float64 reference, on the user's own device.

A few odd shapes per op, forward and backward, milliseconds each. A kernel that no recorded run has shown
right on this hardware serves only after it has passed (:mod:`bido_ext._serve`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from bido_ext import reference
from bido_ext.reference.kernel_entries import GAUSSIAN, INVERSE_MULTIQUADRIC, LABELS, LINEAR

Functions = Mapping[str, Callable[..., object]]
#: The functions that stand or fall together.
FAMILIES = {
    "gaussian_gram": ("gaussian_gram", "gaussian_gram_backward"),
    "gram_stack": ("gram_stack", "gram_stack_backward"),
    "double_center": ("double_center",),
    "hsic": ("hsic", "hsic_backward"),
    "nhsic": ("nhsic", "nhsic_backward"),
}
#: Relative error allowed, (values, gradients): float32 products, TF32 products, half-precision features.
TOLERANCES = {"float32": (1e-5, 1e-4), "tf32": (5e-3, 2e-2), "half": (1e-4, 1e-2)}
#: Rows and columns: one sample block, several, more columns than one block takes, and multiples of 16, for
#: which a compiler makes other code.
SHAPES = ((5, 3), (67, 130), (150, 2100), (128, 512))
SMALL_SHAPES = ((5, 3), (64, 130), (100, 2100), (64, 512))


class SelfCheckError(AssertionError):
    """An implementation disagrees with the reference."""


def self_check(
    op: str,
    functions: Functions,
    dtype: torch.dtype,
    device: torch.device,
    *,
    tf32: bool = False,
    shapes: Sequence[tuple[int, int]] | None = None,
) -> None:
    """Compares ``functions``, by the names of FAMILIES[op], with the reference.

    Args:
        shapes: Rows and columns to check; default SHAPES, or SMALL_SHAPES for nhsic.

    Raises:
        SelfCheckError: A result is off; says which, by how much, and what is allowed.
    """
    kind = "half" if dtype.itemsize == 2 else "tf32" if tf32 else "float32"
    checks: dict[str, Callable[..., None]] = {
        "gaussian_gram": _gaussian_gram,
        "gram_stack": functools.partial(_gram_stack, tf32=tf32),
        "double_center": _double_center,
        "hsic": _hsic,
        "nhsic": _nhsic,
    }
    for n, d in shapes or (SMALL_SHAPES if op == "nhsic" else SHAPES):
        generator = torch.Generator().manual_seed(n)
        x = (torch.rand((n, d), generator=generator) + 1).to(dtype)
        x[n // 2] = x[0]  # duplicate rows: a zero distance off the diagonal
        checks[op](functions, x, device, *TOLERANCES[kind])


def _compare(what: str, got: Tensor, wanted: Tensor, allowed: float) -> None:
    got = got.detach().double().cpu()
    error = float((got - wanted).norm() / wanted.norm().clamp_min(1e-300))
    if got.shape != wanted.shape or not error <= allowed:  # NaN fails
        raise SelfCheckError(
            f"{what} of shape {tuple(got.shape)} is off by {error:.1e}, allowed {allowed:.0e}"
        )


def _power_of_two_over(gradient: Tensor) -> float:
    """Brings the largest entry of a gradient near 1: float16 holds nothing below 6e-8."""
    return 2.0 ** -math.floor(math.log2(max(float(gradient.abs().max()), 1e-300)))


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _gaussian_gram(
    f: Functions, x: Tensor, device: torch.device, values: float, grads: float
) -> None:
    n, d = x.shape
    gamma = torch.tensor(1 / (2 * 25 * d), dtype=torch.float64)
    wide = x.double().requires_grad_()
    K = reference.gaussian_gram(wide, gamma, True)
    got = f["gaussian_gram"](x.to(device), gamma.to(device), True)
    assert isinstance(got, Tensor)
    _compare("gaussian_gram", got, K.detach(), values)
    if "gaussian_gram_backward" in f:
        g = _noise(n, n)
        (wanted,) = torch.autograd.grad(K, wide, g)
        back = f["gaussian_gram_backward"](
            g.float().to(device), got, x.to(device), gamma.to(device), True
        )
        assert isinstance(back, Tensor)
        _compare("gaussian_gram_backward", back, wanted, grads)


def _gram_stack(
    f: Functions, x: Tensor, device: torch.device, values: float, grads: float, *, tf32: bool
) -> None:
    n, d = x.shape
    # The linear kernel centers half-precision features in float32, whose products may be TF32 then.
    linear = TOLERANCES["tf32"] if tf32 else (values, grads)
    allowed = [(values, grads), linear, (values, grads)]
    half = max(1, d // 2)
    kinds = [GAUSSIAN, LINEAR, INVERSE_MULTIQUADRIC]
    parameters = torch.tensor([1 / (50 * d), 1.0, 1.0], dtype=torch.float64)
    wide = [x.double().requires_grad_() for _ in kinds]
    views = [wide[0], wide[1][:, :half], wide[2][:, :half]]
    stack = torch.stack(reference.gram_stack(views, parameters, kinds))
    there = [x.to(device), x[:, :half].to(device), x[:, :half].to(device)]
    got = f["gram_stack"](there, parameters.to(device), kinds)
    assert isinstance(got, Tensor)
    for i in range(len(kinds)):
        _compare(f"gram_stack, kernel {i}", got[i], stack[i].detach(), allowed[i][0])
    g = _noise(3, n, n)
    wanted = torch.autograd.grad(stack, wide, g)
    back = f["gram_stack_backward"](g.float().to(device), got, there, parameters.to(device), kinds)
    assert isinstance(back, list)
    for i, (b, w, v) in enumerate(zip(back, wanted, views, strict=True)):
        _compare(f"gram_stack_backward, kernel {i}", b, w[:, : v.shape[1]], allowed[i][1])


def _double_center(
    f: Functions, x: Tensor, device: torch.device, values: float, grads: float
) -> None:
    K = _noise(x.shape[0], x.shape[0]).float()
    got = f["double_center"](K.to(device))
    assert isinstance(got, Tensor)
    _compare("double_center", got, reference.double_center(K.double()), values)


def _hsic(f: Functions, x: Tensor, device: torch.device, values: float, grads: float) -> None:
    n, d = x.shape
    labels = torch.arange(n) % 3
    z = (x * torch.rand((1, d), generator=torch.Generator().manual_seed(2))).to(x.dtype)
    parameters = torch.tensor([1 / (50 * d), 1 / (50 * d), 1.0], dtype=torch.float64)
    kinds, first, second = [GAUSSIAN, GAUSSIAN, LABELS], [1, 1], [0, 2]
    there = [x.to(device), z.to(device), labels.to(device)]
    wide = z.double().requires_grad_()
    stack = reference.gram_stack([x.double(), wide, labels], parameters, kinds)
    for unbiased in (False, True):
        wanted = torch.stack(
            [
                reference.hsic(stack[a], stack[b], unbiased)
                for a, b in zip(first, second, strict=True)
            ]
        )
        g = torch.tensor([0.3, -1.0], dtype=torch.float64)
        (unscaled,) = torch.autograd.grad(wanted, wide, g, retain_graph=True)
        scale = _power_of_two_over(unscaled)
        g, wanted_grad = scale * g, scale * unscaled
        for tile, kept in ((n, -1), (max(2, n // 2), 0)):
            result = f["hsic"](
                there, parameters.to(device), kinds, first, second, unbiased, tile, kept
            )
            assert isinstance(result, tuple)
            value, sums, tiles = result
            # The unbiased value is a small difference of sums.
            _compare("hsic", value, wanted.detach(), 10 * values if unbiased else values)
            grad_of = f["hsic_backward"](
                g.to(device), there, parameters.to(device), sums, tiles, kinds, first, second,
                unbiased, tile, [1],
            )  # fmt: skip
            assert isinstance(grad_of, list)
            _compare("hsic_backward", grad_of[0], wanted_grad, grads)


def _nhsic(f: Functions, x: Tensor, device: torch.device, values: float, grads: float) -> None:
    n, d = x.shape
    labels = torch.arange(n) % 3
    z = (x * torch.rand((1, d), generator=torch.Generator().manual_seed(2))).to(x.dtype)
    parameters = torch.tensor([1 / (50 * d), 1 / (50 * d), 1.0], dtype=torch.float64)
    kinds, first, second, eps = [GAUSSIAN, GAUSSIAN, LABELS], [1, 1], [0, 2], 1e-5
    there = [x.to(device), z.to(device), labels.to(device)]
    wide = z.double().requires_grad_()
    stack = reference.gram_stack([x.double(), wide, labels], parameters, kinds)
    wanted = torch.stack(
        [reference.nhsic(stack[a], stack[b], eps) for a, b in zip(first, second, strict=True)]
    )
    g = torch.tensor([0.3, -1.0], dtype=torch.float64)
    (unscaled,) = torch.autograd.grad(wanted, wide, g)
    scale = _power_of_two_over(unscaled)
    g, wanted_grad = scale * g, scale * unscaled
    result = f["nhsic"](there, parameters.to(device), kinds, first, second, eps, True, [1])
    assert isinstance(result, tuple)
    value, *kept = result
    # The ridge is of the size of the smallest eigenvalues: it amplifies the rounding of the features' products.
    _compare("nhsic", value, wanted.detach(), 10 * values)
    grad_of = f["nhsic_backward"](
        g.to(device), there, parameters.to(device), *kept, kinds, first, second, eps, [1]
    )
    assert isinstance(grad_of, list)
    _compare("nhsic_backward", grad_of[0], wanted_grad, 10 * grads)

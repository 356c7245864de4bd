# SPDX-License-Identifier: Apache-2.0
"""The gradient by a bandwidth, from the gradient by the features.

Kernels with a bandwidth depend on x / sigma alone. So for every function v of such a Gram matrix

    sigma dv/dsigma = -sum_ij x_ij dv/dx_ij            (Euler's theorem on homogeneous functions)

and no op needs a derivative of its own: dense, streaming, compiled or over ranks, the features' gradient is
all that is asked for. The rows of dv/dx sum to 0, so that x may be taken from any centre; near the data it
keeps digits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bido_ext.ops._transforms import within_product


class _Tied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sigma: Tensor, centre: Tensor) -> Tensor:
        ctx.save_for_backward(x, sigma, centre)
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        x, sigma, centre = ctx.saved_tensors
        product = ((x.double() - centre) * grad).sum()
        of_sigma = (-product / sigma.to(x.device, torch.float64)).to(sigma)
        return (grad if ctx.needs_input_grad[0] else None), of_sigma, None


def learnable(sigma: object) -> bool:
    """Whether a bandwidth wants a gradient."""
    return isinstance(sigma, Tensor) and sigma.requires_grad


def tie_sigma(x: Tensor, sigma: object, centre: Tensor | None = None) -> Tensor:
    """The features x (n, d), through whose gradient ``sigma`` gets its own, where it wants one.

    Args:
        centre: (1, d) near the features, the same for all rows of a batch; default: their mean.

    Returns:
        The same numbers; those of 16 bits in float32, since their gradient would keep 3 digits.
    """
    if not (isinstance(sigma, Tensor) and sigma.requires_grad and torch.is_grad_enabled()):
        return x
    if not torch.compiler.is_compiling() and within_product():
        refuse_transforms(sigma)
    x = x if x.dtype.itemsize > 2 else x.float()
    if centre is None:
        centre = x.detach().mean(0, keepdim=True, dtype=torch.float64)
    return _Tied.apply(x, sigma, centre)


def refuse_transforms(*sigmas: object) -> None:
    """Where torch.func transforms or forward mode are at work, of which a bandwidth is no argument.

    Raises:
        NotImplementedError: One wants a gradient.
    """
    if any(learnable(sigma) for sigma in sigmas):
        raise NotImplementedError(
            "a sigma that requires a gradient has none under torch.func transforms and forward mode: "
            "differentiate with .backward() or torch.autograd.grad, take bido_ext.reference, or give "
            "sigma.detach()."
        )


def sigmas_of(kernels: Iterable[object]) -> list[Tensor]:
    """The bandwidths that want a gradient, each once; also those of a mixture's kernels."""
    found: dict[int, Tensor] = {}
    for kernel in kernels:
        sigma = getattr(kernel, "sigma", None)
        if isinstance(sigma, Tensor) and sigma.requires_grad:
            found[id(sigma)] = sigma
        found |= {id(s): s for s in sigmas_of(getattr(kernel, "kernels", ()))}
    return list(found.values())

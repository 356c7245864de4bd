# SPDX-License-Identifier: Apache-2.0
"""The best eager PyTorch we can order by hand: the strongest rival without own kernels.

Own autograd.Function per layer: K - 1 in place, both terms of a layer combined into one gradient
G = d value / d K, the weights 4 gamma (G o K - diag(G o K 1)) formed during the forward, and a
backward of a single product. Cholesky for nhsic; |K L|_F^2 = <K^2, L^2> for coco.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.problem import Problem

MEASURES = frozenset({"hsic", "nhsic", "coco", "cka"})

#: (weight, prepared Gram matrix) of X and, in a step, of the labels.
Targets = list[tuple[float, Tensor]]


def loss(measure: str, problem: Problem) -> Tensor:
    """sum_j lambda_x d(X, Z_j) - lambda_y d(Z_j, Y); a 0-d tensor."""
    with torch.no_grad():
        x, labels, eps = problem.x, problem.labels, problem.eps
        targets = [(problem.lambda_x, _fixed(measure, gram_minus_one(x, problem.gamma(x)), eps))]
        if labels is not None:
            same = (labels[:, None] == labels[None, :]).to(x.dtype)
            targets.append((-problem.lambda_y, _fixed(measure, same, eps)))
        if measure in ("hsic", "nhsic") and len(targets) == 2:
            # Linear in the target: the two terms of every layer become one.
            (wx, X), (wy, Y) = targets
            targets = [(1.0, X.mul_(wx).add_(Y, alpha=wy))]
    value = problem.x.new_zeros(())
    for z in problem.layers:
        value = value + _Layer.apply(z, problem.gamma(z), measure, targets, problem.eps)
    return value


class _Layer(torch.autograd.Function):
    """sum of weight * d(Z, target) over the targets; features z (n, d) -> 0-d."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, gamma: float, measure: str, targets: Targets, eps: float
    ) -> Tensor:
        E = gram_minus_one(z, gamma)
        value, G = _VALUE_AND_GRADIENT[measure](E, targets, eps)
        W = E.add_(1).mul_(G).mul_(4 * gamma)
        W.diagonal().sub_(W.sum(1))
        ctx.save_for_backward(W, z)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        W, z = ctx.saved_tensors
        return (W * grad) @ z, None, None, None, None


def gram_minus_one(x: Tensor, gamma: float) -> Tensor:
    """expm1(-gamma |x_i - x_j|^2), (n, n), in one buffer."""
    E = x @ x.T
    squares = E.diagonal().clone()
    E.mul_(2 * gamma).sub_(gamma * squares[:, None]).sub_(gamma * squares[None, :])
    return E.clamp_(max=0).fill_diagonal_(0).expm1_()


def center_(K: Tensor) -> Tensor:
    """H K H of a symmetric K, in place."""
    means = K.mean(1)
    return K.sub_(means[:, None]).sub_((means - means.mean())[None, :])


def _fixed(measure: str, gram: Tensor, eps: float) -> Tensor:
    """What a variable without gradient contributes; the constants of d are folded in."""
    n = gram.shape[0]
    Kc = center_(gram)
    if measure == "hsic":
        return Kc.div_((n - 1) ** 2)
    if measure == "nhsic":
        ridge = Kc.clone()
        ridge.diagonal().add_(eps * n)
        return torch.cholesky_solve(Kc, torch.linalg.cholesky(ridge))
    if measure == "coco":
        return Kc @ Kc
    return Kc.div_(Kc.norm())


def _hsic(E: Tensor, targets: Targets, eps: float) -> tuple[Tensor, Tensor]:
    ((weight, T),) = targets
    return weight * torch.dot(E.flatten(), T.flatten()), T if weight == 1 else T * weight


def _nhsic(E: Tensor, targets: Targets, eps: float) -> tuple[Tensor, Tensor]:
    """S = I - c P: value <S, T>, d value / d K = c P T P."""
    ((weight, T),) = targets
    c = eps * E.shape[0]
    ridge = center_(E.clone())
    ridge.diagonal().add_(c)
    P = torch.cholesky_inverse(torch.linalg.cholesky(ridge))
    value = T.trace() - c * torch.dot(P.flatten(), T.flatten())
    return weight * value, center_((P @ T @ P).mul_(weight * c))


def _coco(E: Tensor, targets: Targets, eps: float) -> tuple[Tensor, Tensor]:
    """value = sum of w <K^2, L^2>^(1/4) / n; the gradients of all terms share one product."""
    n = E.shape[0]
    Kc = center_(E.clone())
    square = Kc @ Kc
    value = E.new_zeros(())
    combined = torch.zeros_like(square)
    for weight, target in targets:
        inner = torch.dot(square.flatten(), target.flatten())
        value = value + weight * inner**0.25 / n
        combined.add_(target * (weight * inner**-0.75 / (4 * n)))
    half = Kc @ combined
    return value, half + half.T


def _cka(E: Tensor, targets: Targets, eps: float) -> tuple[Tensor, Tensor]:
    Kc = center_(E.clone())
    norm = Kc.norm()
    Kc.div_(norm)
    value = E.new_zeros(())
    G = torch.zeros_like(Kc)
    for weight, target in targets:
        alignment = torch.dot(Kc.flatten(), target.flatten())
        value = value + weight * alignment
        G.add_((target - alignment * Kc) * (weight / norm))
    return value, G


_VALUE_AND_GRADIENT = {"hsic": _hsic, "nhsic": _nhsic, "coco": _coco, "cka": _cka}


class _Gram(torch.autograd.Function):
    """K of features x (n, d), or K - 1, with a backward of one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: float, minus_one: bool = False) -> Tensor:
        E = gram_minus_one(x, gamma)
        ctx.minus_one = minus_one
        ctx.gamma = gamma
        out = E if minus_one else E.add_(1)
        ctx.save_for_backward(out, x)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        out, x = ctx.saved_tensors
        sym = grad + grad.T
        W = torch.addcmul(sym, sym, out) if ctx.minus_one else sym.mul_(out)
        W.mul_(2 * ctx.gamma)
        W.diagonal().sub_(W.sum(1))
        return W @ x, None, None


def gram(problem: Problem) -> Tensor:
    """The Gram matrix of the one layer."""
    (x,) = problem.layers
    return _Gram.apply(x, problem.gamma(x))


def gram_stack(problem: Problem) -> Tensor:
    """K - 1 of every layer."""
    return torch.stack([_Gram.apply(z, problem.gamma(z), True) for z in problem.layers])

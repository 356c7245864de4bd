# SPDX-License-Identifier: Apache-2.0
"""Powers of Euclidean distances as a Gram matrix: K_ij = -|x_i - x_j|^beta.

x: [n, d]  ->  K: [n, n] float64;   grad_x = W x - diag(W 1) x,  W = beta (G + G') o |x_i - x_j|^(beta - 2),
with W_ij = 0 where the distance is 0

Distances are in float64 for every dtype, and exact where samples coincide or nearly do: a root makes an error
of 1e-16 in a squared distance one of 1e-8. Up to DIRECT_UP_TO columns they are sums of squared differences;
beyond, a matrix product gives them from features less their medians (a far sample does not move those), and
the pairs that are close beside their norms are made again from differences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bido_ext.ops._define import define_derivative, define_op, refuse_double_backward
from bido_ext.ops.kernels import Kernel

#: Columns up to which differences are as fast as a product.
DIRECT_UP_TO = 16
#: Pairs with |x_i - x_j|^2 below this share of |x_i|^2 + |x_j|^2 are made again from differences.
CLOSE = 1e-3
#: Rows of a block, which stays in cache between the steps.
ROWS = 128
#: Columns of differences at once.
PAIRS = 1 << 16


@dataclass(frozen=True)
class DistanceKernel(Kernel):
    """k(a, b) = -|a - b|^beta, 0 < beta < 2: HSIC with it is distance covariance (Sejdinovic et al. 2013).

    In float64 whatever the features are, with a Gram matrix of its own; ``Energy`` is the same kernel fused
    into the ops, in the dtype of the features.
    """

    beta: float = 1.0

    def gram_up_to_centering(self, x: Tensor) -> Tensor:
        return distance_gram(x, self.beta)

    def label_scale(self, num_classes: int | None) -> float:
        return 2.0 ** (self.beta / 2)


def distance_gram(x: Tensor, beta: float = 1.0) -> Tensor:
    """-|x_i - x_j|^beta of the rows of x (n, d), (n, n) float64; differentiable once."""
    return torch.ops.bido_ext.distance_gram(x, beta)


def cross_distances(a: Tensor, b: Tensor, squared: bool = False) -> Tensor:
    """|a_i - b_j|, or its square, of rows (m, d) and (n, d), (m, n) float64, without a derivative."""
    a, b = a.double(), b.double()
    if a.shape[1] == 1:
        r = (a - b.T).abs_()
        return r.square_() if squared else r
    if a.shape[1] <= DIRECT_UP_TO:
        r = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        return r.square_() if squared else r
    # Less the medians they are rounded: nothing beside their norms, but close pairs see it.
    given_a, given_b = a, b
    center = b.median(0).values
    a, b = a - center, b - center
    own, other = a.square().sum(1), b.square().sum(1)
    result = b.new_empty((len(a), len(b)))
    for begin in range(0, len(a), ROWS):
        rows, D = a[begin : begin + ROWS], result[begin : begin + ROWS]
        size = own[begin : begin + ROWS, None] + other
        torch.mm(rows, b.T, out=D)
        D.mul_(-2).add_(size)
        close = (size.mul_(CLOSE) > D).nonzero()
        for some in close.split(max(1, PAIRS // a.shape[1])):
            i, j = some.unbind(1)
            D[i, j] = (given_a[begin + i] - given_b[j]).square_().sum(1)
        if not squared:
            D.sqrt_()
    return result


def _default(x: Tensor, beta: float) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        r = cross_distances(x.detach(), x.detach())
        return r.neg_() if beta == 1 else r.pow_(beta).neg_()


def _default_backward(grad: Tensor, gram: Tensor, x: Tensor, beta: float) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        wide = x.double()
        wide = wide - wide.median(0).values
        grad_x = torch.empty_like(wide)
        for begin in range(0, len(wide), ROWS):
            rows = slice(begin, begin + ROWS)
            W, K = grad[rows] + grad[:, rows].T, gram[rows]
            # The negative of W / beta; -K is r^beta, so r^(beta - 2) is (-K)^(1 - 2 / beta).
            W = W.div_(K) if beta == 1 else W.mul_(K.neg().pow_(1 - 2 / beta)).neg_()
            W = W.masked_fill_(K == 0, 0.0)
            torch.addmm(wide[rows] * W.sum(1, keepdim=True), W, wide, alpha=-1, out=grad_x[rows])
        return grad_x.mul_(beta).to(x.dtype)


define_op(
    "distance_gram",
    "(Tensor x, float beta) -> Tensor",
    default=_default,
    fake=lambda x, beta: x.new_empty((x.shape[0], x.shape[0]), dtype=torch.float64),
)
define_op(
    "distance_gram_backward",
    "(Tensor grad, Tensor gram, Tensor x, float beta) -> Tensor",
    default=_default_backward,
    fake=lambda grad, gram, x, beta: x.new_empty(x.shape),
)
refuse_double_backward("distance_gram_backward")


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.beta = inputs
    ctx.save_for_backward(output, x)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    gram, x = ctx.saved_tensors
    return torch.ops.bido_ext.distance_gram_backward(grad, gram, x, ctx.beta), None


define_derivative("distance_gram", _backward, _setup_context)

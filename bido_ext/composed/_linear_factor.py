# SPDX-License-Identifier: Apache-2.0
"""The factor of nhsic for the linear kernel by Cholesky alone, without a look at a value.

Kc = X X' with X the centered features. Of B, the features above sqrt(c) I,

    d < n:  B = [X; sqrt(c) I_d],   B = Q R,   S = Q_1 Q_1',   P X = Q_1 R^-T,   Q_1 the first n rows,
    else:   B = [X'; sqrt(c) I_n],  c P = Q_2 Q_2',  S = I - c P,  P X = R^-1 Q_1',  Q_2 the last n rows.

Squaring B once costs half of the digits; so Q R is made twice (CholeskyQR2, Yamamoto et al. 2015): the Q of
the first time is nearly orthogonal, and its own factor puts it right. What remains is the round-off of X, as in
bido_ext/ops/linear_factor.py, whose SVD stops the host. Where B'B is not positive definite in float64, the
first factor fails, and the result is NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.ops.algebra import center_stack
from bido_ext.ops.linear_factor import LARGEST_ERROR, LARGEST_ERROR_OF_GRADIENT, LinearFactor

#: How far the first Q may be from orthogonal: the second factor squares that away.
LARGEST_DEFECT = 1e-2


def linear_factor(x: Tensor, c: float) -> LinearFactor:
    """Of features x (n, d), c > 0; n d min(n, d) work."""
    n, d = x.shape
    X = x.double() - x[:1].double()  # first, so that a common offset costs no digits
    for _ in range(2):  # what the first mean leaves would be a singular value of its own
        X = X - X.mean(0, keepdim=True)
    small = min(n, d)
    parts = [X if d < n else X.mT, torch.eye(small, dtype=X.dtype, device=X.device) * c**0.5]
    if d >= n:
        # Centered features have nothing along 1; a row there keeps it from looking like a small singular value.
        along = torch.linalg.vector_norm(X) / n
        parts.append(along.expand(1, n))
    Q, R, defect = _orthogonal(torch.cat(parts))
    Q1, Q2 = Q[: max(n, d)], Q[max(n, d) : max(n, d) + small]
    inverse = torch.linalg.solve_triangular(
        R, torch.eye(small, dtype=X.dtype, device=X.device), upper=True
    )
    eye = torch.eye(n, dtype=X.dtype, device=X.device)
    if d < n:
        S, PX = center_stack(Q1 @ Q1.mT, X.dtype), Q1 @ inverse.mT
        rest = eye - S
    else:  # c P may be small beside S, and keeps its digits
        rest, PX = center_stack(Q2 @ Q2.mT, X.dtype) + 1 / n, inverse @ Q1.mT
        S = eye - rest
    unresolved = ~(defect <= LARGEST_DEFECT) | _is_coarse(X, PX, inverse, c)
    nan = torch.where(unresolved, float("nan"), 0.0).to(X.dtype)
    return LinearFactor(S + nan, rest, PX, unresolved)


def _orthogonal(B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Q, R of B = Q R, and how far the Q of the first time was from orthogonal."""
    R = _upper_factor(B.mT @ B)
    Q = torch.linalg.solve_triangular(R, B, upper=True, left=False)
    square = Q.mT @ Q
    square.diagonal().sub_(1)
    defect = torch.linalg.vector_norm(square)
    square.diagonal().add_(1)
    again = _upper_factor(square)
    return torch.linalg.solve_triangular(again, Q, upper=True, left=False), again @ R, defect


def _upper_factor(square: Tensor) -> Tensor:
    """R of R'R; NaN where it is not positive definite."""
    factor, info = torch.linalg.cholesky_ex(square)
    return factor.masked_fill(info != 0, float("nan")).mT


def _is_coarse(X: Tensor, PX: Tensor, inverse: Tensor, c: float) -> Tensor:
    """Whether singular values of X may lie where float64 cannot tell them from sqrt(c); 0-d bool.

    One of s that is off by r moves an eigenvalue of S by 2 c s r / (s^2 + c)^2, most at s^2 = c / 3. The
    smallest one is at least that of B, 1 / |R^-1|, less what sqrt(c) adds.
    """
    n, d = X.shape
    roundoff = 4 * max(n, d) ** 0.5 * torch.finfo(X.dtype).eps * torch.linalg.matrix_norm(X)
    lowest = (torch.linalg.vector_norm(inverse).pow(-2) - c).clamp_min(0)
    at = lowest.clamp_min(c / 3)
    error = 2 * c * at.sqrt() * roundoff / (at + c).square()
    near = lowest < 1e4 * c
    of_gradient = torch.where(near, roundoff / c, 0.0)
    resolved = (error <= LARGEST_ERROR) & torch.isfinite(X).all()
    resolved = resolved & (of_gradient <= LARGEST_ERROR_OF_GRADIENT * torch.linalg.vector_norm(PX))
    return ~resolved

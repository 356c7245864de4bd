# SPDX-License-Identifier: Apache-2.0
"""The factor of nhsic for the linear kernel, from the features and not from their Gram matrix.

Kc = X X' with X the centered features. Its rank may be below n and its scale anything, so Kc + c I is singular
for floats. With the QR factorisation, in float64,

    [X; sqrt(c) I] = [Q1; Q2] R  (d < n):     S = Q1 Q1',      c P = I - S,    P X = Q1 R^-T
    [X'; sqrt(c) I] = [Q1; Q2] R (d >= n):    c P = Q2 Q2',    S = I - c P,    P X = R^-1 Q1'

nothing is squared, and what the gradient needs, G X = c P T (P X), comes without cancellation. n d min(n, d) work.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Error of S that is allowed.
LARGEST_ERROR = 1e-6


@dataclass(frozen=True)
class LinearFactor:
    """S = Kc (Kc + c I)^-1, cP = I - S and PX (n, d), all float64.

    Attributes:
        unresolved: 0-d bool: singular values lie where float64 cannot tell them from sqrt(c).
    """

    S: Tensor
    cP: Tensor
    PX: Tensor
    unresolved: Tensor


def linear_factor(x: Tensor, c: float) -> LinearFactor:
    """Of features x (n, d), c > 0."""
    n, d = x.shape
    X = x.double() - x[:1].double()  # first, so that a common offset costs no digits
    X = X - X.mean(0, keepdim=True)
    rows = X if d < n else X.mT
    width = min(n, d)
    eye = torch.eye(n, dtype=X.dtype, device=X.device)
    ridge = c**0.5 * torch.eye(width, dtype=X.dtype, device=X.device)
    Q, R = torch.linalg.qr(torch.cat([rows, ridge]))
    Q1, Q2 = Q[: len(rows)], Q[len(rows) :]
    if d < n:
        S = Q1 @ Q1.mT
        cP = eye - S
        PX = torch.linalg.solve_triangular(R, Q1.mT, upper=True).mT  # of R (PX)' = Q1'
    else:
        cP = Q2 @ Q2.mT
        S = eye - cP
        PX = torch.linalg.solve_triangular(R, Q1.mT, upper=True)
    return LinearFactor(S, cP, PX, _unresolved(R.diagonal(), c))


def _unresolved(diagonal: Tensor, c: float) -> Tensor:
    """Whether round-off of the largest singular value moves S: dS = 2 c s ds / (s^2 + c)^2."""
    squares = diagonal.square()  # about s^2 + c
    roundoff = torch.finfo(diagonal.dtype).eps * diagonal.abs().amax()
    s = (squares - c).clamp_min(0).sqrt() + roundoff
    error = (2 * c * s * roundoff / squares.square()).amax()
    return ~(error <= LARGEST_ERROR)

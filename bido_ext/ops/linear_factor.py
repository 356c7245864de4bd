# SPDX-License-Identifier: Apache-2.0
"""The factor of nhsic for the linear kernel, from the features and not from their Gram matrix.

Kc = X X' with X the centered features. Its rank may be below n and its scale anything, so Kc + c I is singular
for floats. With the singular value decomposition X = U diag(s) V', in float64,

    S = U diag(s^2 / (s^2 + c)) U',   c P = I - S,   P X = U diag(s / (s^2 + c)) V'

nothing is squared, and what the gradient needs, G X = c P T (P X), comes without cancellation. Singular values
that are round-off of the largest are 0. n d min(n, d) work.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bido_ext.ops.algebra import center_stack

#: Errors that are allowed: of S, and of P X against its norm.
LARGEST_ERROR, LARGEST_ERROR_OF_GRADIENT = 1e-6, 1e-5


@dataclass(frozen=True)
class LinearFactor:
    """S = Kc (Kc + c I)^-1, the rest I - S = c P, and PX (n, d), all float64.

    Attributes:
        unresolved: 0-d bool: singular values lie where float64 cannot tell them from sqrt(c).
    """

    S: Tensor
    rest: Tensor
    PX: Tensor
    unresolved: Tensor


def linear_factor(x: Tensor, c: float) -> LinearFactor:
    """Of features x (n, d), c > 0."""
    n, d = x.shape
    X = x.double() - x[:1].double()  # first, so that a common offset costs no digits
    for _ in range(
        2
    ):  # what the first mean leaves would be a singular value of its own, beside sqrt(c)
        X = X - X.mean(0, keepdim=True)
    # Of the triangular factor, which is small.
    Q, R = torch.linalg.qr(X if d < n else X.mT)
    left, s, right = torch.linalg.svd(torch.where(torch.isfinite(R), R, 0.0))
    U, Vh = (Q @ left, right) if d < n else (right.mT, (Q @ left).mT)
    roundoff = 4 * max(n, d) ** 0.5 * torch.finfo(X.dtype).eps * s.amax()
    s = torch.where(s > roundoff, s, 0.0)
    ridged = s.square() + c
    S = center_stack((U * (s.square() / ridged)) @ U.mT, X.dtype)
    rest = torch.eye(n, dtype=X.dtype, device=X.device) - S
    of_PX = s / ridged
    PX = (U * of_PX) @ Vh
    error = (2 * c * s * roundoff / ridged.square()).amax()
    near = (s > 0) & (s.square() < 1e4 * c)
    of_gradient = torch.where(near.any(), roundoff / c, 0.0)
    resolved = (error <= LARGEST_ERROR) & torch.isfinite(R).all()
    # The norm of PX, in units of its largest singular value, whose square may be 0.
    unit = of_PX.amax()
    norm = unit * torch.linalg.vector_norm(of_PX / torch.where(unit > 0, unit, 1.0))
    resolved = resolved & (of_gradient <= LARGEST_ERROR_OF_GRADIENT * norm)
    return LinearFactor(S, rest, PX, ~resolved)

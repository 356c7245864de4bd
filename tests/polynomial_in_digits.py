# SPDX-License-Identifier: Apache-2.0
"""The polynomial kernel in 50 digits: beside a common offset nearly all of <a, b> is lost in centering."""

from __future__ import annotations

import mpmath
import torch
from torch import Tensor

import bido_ext as bx


def _products(x: Tensor, kernel: bx.Polynomial) -> tuple[list[list[mpmath.mpf]], mpmath.matrix]:
    X = [[mpmath.mpf(v) for v in row] for row in x.tolist()]
    n = len(X)
    B = mpmath.matrix(n)
    for i in range(n):
        for j in range(i + 1):
            B[i, j] = B[j, i] = mpmath.fdot(X[i], X[j]) + mpmath.mpf(kernel.c)
    return X, B


def _centered(K: mpmath.matrix) -> mpmath.matrix:
    n = K.rows
    means = [mpmath.fsum(K[i, j] for j in range(n)) / n for i in range(n)]
    total = mpmath.fsum(means) / n
    C = mpmath.matrix(n)
    for i in range(n):
        for j in range(n):
            C[i, j] = K[i, j] - means[i] - means[j] + total
    return C


def centered_gram(x: Tensor, kernel: bx.Polynomial) -> Tensor:
    """H K H (n, n) of float64 features (n, d)."""
    with mpmath.workdps(50):
        _, B = _products(x, kernel)
        C = _centered(B.apply(lambda b: b**kernel.degree))
        rows = [[float(C[i, j]) for j in range(len(x))] for i in range(len(x))]
        return torch.tensor(rows, dtype=torch.float64)


def gradient_of_features(
    x: Tensor, kernel: bx.Polynomial, G: Tensor, size: Tensor
) -> tuple[Tensor, float]:
    """From the symmetric gradient G in the centered Gram matrix; and the norm of what is added up, which is of
    the size ``size`` (n, n) times what the terms of a row differ from that of row 0."""
    n, d = x.shape
    with mpmath.workdps(50):
        X, B = _products(x, kernel)
        C = _centered(mpmath.matrix(((G + G.T) / 2).tolist()))
        S = B.apply(lambda b: 2 * kernel.degree * b ** (kernel.degree - 1))
        gradient, terms = torch.zeros(n, d).double(), torch.zeros(n, d).double()
        for i in range(n):
            for k in range(d):
                parts = [S[i, j] * X[j][k] for j in range(n)]
                gradient[i, k] = float(mpmath.fsum(C[i, j] * parts[j] for j in range(n)))
                mean = mpmath.fsum(parts) / n
                terms[i, k] = float(
                    mpmath.fsum(abs(size[i, j].item() * (parts[j] - mean)) for j in range(n))
                )
    return gradient, float(terms.norm())

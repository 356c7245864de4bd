# SPDX-License-Identifier: Apache-2.0
"""nhsic and its gradient in 50 digits, for linear kernels, whose ridge float64 does not resolve."""

from __future__ import annotations

import mpmath
import torch
from torch import Tensor

import bido_ext as bx


def nhsic_in_50_digits(
    x: Tensor, y: Tensor, K_of: bx.Kernel, L_of: bx.Kernel | None, eps: float
) -> tuple[float, Tensor, float, float]:
    """Value, gradient by x, the largest value there is, and the size of what the gradient adds up.

    Args:
        L_of: None: y are labels.
    """
    with mpmath.workdps(50):
        n = len(x)
        c = mpmath.mpf(eps) * n
        X, K = _gram_in_50_digits(x, K_of)
        if L_of is None:
            L = mpmath.matrix([[int(a == b) for b in y.tolist()] for a in y.tolist()])
        else:
            _, L = _gram_in_50_digits(y.double(), L_of)
        Kc, Lc = _center_mp(K), _center_mp(L)
        P = (Kc + c * mpmath.eye(n)) ** -1
        S = mpmath.eye(n) - c * P
        T = mpmath.eye(n) - c * (Lc + c * mpmath.eye(n)) ** -1
        value = sum((S * T)[i, i] for i in range(n))
        G = c * P * T * P
        largest = mpmath.mpf("0.1") * max(abs(g) for g in G)
        gradient = torch.zeros_like(x)
        terms = torch.zeros_like(x)
        d = x.shape[1]
        for i in range(n):
            for k in range(d):
                if isinstance(K_of, bx.Linear):
                    parts = [2 * G[i, j] * X[j, k] for j in range(n)]
                else:
                    weight = _weights_mp(K_of, K, d)
                    parts = [weight(G[i, j], i, j) * (X[j, k] - X[i, k]) for j in range(n)]
                    rough = [weight(largest, i, j) * (X[j, k] - X[i, k]) for j in range(n)]
                    # As in _of_features: K beside 1.
                    lost = [
                        weight(G[i, j], i, j) * (X[j, k] - X[i, k]) * mpmath.mpf("1e-9") / K[i, j]
                        for j in range(n)
                    ]
                    terms[i, k] = float(sum(abs(p) for p in [*parts, *rough, *lost]))
                gradient[i, k] = float(sum(parts))
        # c P T P X: the terms of it cancel where the linear kernel has the rank; the package avoids them.
        size = float(terms.norm())
        if isinstance(K_of, bx.Linear):
            PX = P * X
            size = float(gradient.norm()) + 0.1 * float(
                mpmath.mnorm(PX, "f") * mpmath.mnorm(T, "f")
            )
        return float(value), gradient, float(n - 1), size


def _gram_in_50_digits(x: Tensor, kernel: bx.Kernel) -> tuple[mpmath.matrix, mpmath.matrix]:
    X = mpmath.matrix([[mpmath.mpf(v) for v in row] for row in x.tolist()])
    n, d = x.shape
    for k in range(d):
        mean = sum(X[i, k] for i in range(n)) / n
        for i in range(n):
            X[i, k] -= mean
    if isinstance(kernel, bx.Linear):
        return X, X * X.T
    K = mpmath.zeros(n)
    for i in range(n):
        for j in range(n):
            D = sum((X[i, k] - X[j, k]) ** 2 for k in range(d))
            if isinstance(kernel, bx.InverseMultiquadric):
                K[i, j] = (1 + D) ** mpmath.mpf("-0.5")
            else:
                K[i, j] = mpmath.exp(
                    -D / (2 * mpmath.mpf(float(kernel.sigma)) ** 2 * width(kernel, d))
                )
    return X, K


def width(kernel: bx.Kernel, d: int) -> int:
    """What squared distances are divided by."""
    return d if getattr(kernel, "scale_by_dim", False) else 1


def _weights_mp(kernel: bx.Kernel, K: mpmath.matrix, d: int):  # type: ignore[no-untyped-def]
    if isinstance(kernel, bx.InverseMultiquadric):
        return lambda g, i, j: 2 * g * K[i, j] ** 3
    assert isinstance(kernel, bx.Gaussian)
    gamma = 1 / (2 * mpmath.mpf(float(kernel.sigma)) ** 2 * width(kernel, d))
    return lambda g, i, j: 4 * gamma * g * K[i, j]


def _center_mp(K: mpmath.matrix) -> mpmath.matrix:
    n = K.rows
    H = mpmath.eye(n) - mpmath.ones(n) / n
    return H * K * H

# SPDX-License-Identifier: Apache-2.0
"""nhsic and its gradient in a Gram matrix with 64 bits of mantissa, for a ridge that float64 algebra loses.

Of two variables with the same equal samples all that float64 makes in the direction of their difference is
round-off, u / c of it, beside a gradient that is as small as c.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def nhsic_in_long_doubles(K: Tensor, L: Tensor, c: float) -> tuple[float, Tensor, float]:
    """Value, d value / dK and |S| |T|, of Gram matrices (n, n) in float64."""
    (S, P), (T, _) = (_factor_and_inverse(gram.numpy(), c) for gram in (K, L))
    G = np.longdouble(c) * P @ T @ P
    bound = np.sqrt((S * S).sum() * (T * T).sum())
    return float((S * T).sum()), torch.from_numpy(_centered(G).astype(np.float64)), float(bound)


def _centered(K: np.ndarray) -> np.ndarray:
    K = (K + K.T) / 2
    K = K - K.mean(0, keepdims=True)
    return K - K.mean(1, keepdims=True)


def _factor_and_inverse(K: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    """S = H K H P and P = (H K H + c I)^-1, by Newton's steps from that of float64.

    S is I - c P, whose round-off is no larger where H K H has none of its own; beside a K that is small
    against c that cancels, and S is the product.
    """
    eye = np.eye(len(K), dtype=np.longdouble)
    Kc = _centered(K.astype(np.longdouble))
    A = Kc + np.longdouble(c) * eye
    P = np.linalg.inv(A.astype(np.float64)).astype(np.longdouble)
    for _ in range(3):
        P = P + P @ (eye - A @ P)
    P = (P + P.T) / 2
    S = P @ Kc if np.sqrt((Kc * Kc).sum()) < 1e-2 * c else eye - np.longdouble(c) * P
    S = (S + S.T) / 2
    # Equal samples have equal rows: S has the same entries for them, and swapping two does not change P. What
    # round-off has there would come back as 1 / c^2.
    first = (K[:, None] == K[None]).all(-1).argmax(1)
    for i in np.flatnonzero(first != np.arange(len(K))):
        swap = np.arange(len(K))
        swap[[i, first[i]]] = first[i], i
        P = (P + P[swap][:, swap]) / 2
    return S[first][:, first], P

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
    (Kc, P), (Lc, Q) = (_centered_and_inverse(gram.numpy(), c) for gram in (K, L))
    S, T = P @ Kc, Q @ Lc  # not I - c P, which cancels beside a K that is small against c
    S, T = (S + S.T) / 2, (T + T.T) / 2
    G = np.longdouble(c) * P @ T @ P
    bound = np.sqrt((S * S).sum() * (T * T).sum())
    return float((S * T).sum()), torch.from_numpy(_centered(G).astype(np.float64)), float(bound)


def _centered(K: np.ndarray) -> np.ndarray:
    K = (K + K.T) / 2
    K = K - K.mean(0, keepdims=True)
    return K - K.mean(1, keepdims=True)


def _centered_and_inverse(K: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    """H K H and (H K H + c I)^-1, by Newton's steps from that of float64."""
    Kc = _centered(K.astype(np.longdouble))
    A = Kc + np.longdouble(c) * np.eye(len(K), dtype=np.longdouble)
    P = np.linalg.inv(A.astype(np.float64)).astype(np.longdouble)
    for _ in range(3):
        P = P + P @ (np.eye(len(A), dtype=np.longdouble) - A @ P)
    return Kc, (P + P.T) / 2

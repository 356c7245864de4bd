# SPDX-License-Identifier: Apache-2.0
"""The gradient of nhsic by a Gram matrix, G = c P T P, P = (Kc + c I)^-1, T the sum of the partners' factors.

Where K is blind, as along the difference of two equal samples, P is 1 / c. Features do not see the part of
G from there to there: their gradient is of G times the root of K. But that part, or the round-off of P T P if T
is blind there too, may be as large as 1 / c where the rest is of size c. Then G is made from the eigenvectors
of K, without it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.ops.algebra import center_stack

#: The round-off of c P T P against the least norm that the rest may have: beyond, by eigenvectors.
LARGEST_NOISE = 1e-7
#: On a GPU, where no value is read back: beyond, NaN.
LARGEST_NOISE_ON_GPU = 5e-5
#: Of the entries: smaller eigenvalues are their round-off.
SMALLEST_EIGENVALUE = 4 * torch.finfo(torch.float64).eps


def gradient_of_gram(P: Tensor, T: Tensor, E: Tensor, c: float) -> Tensor:
    """G of Gram matrices up to centering E, all (b, n, n), symmetric and centered, in the dtype of E."""
    G = (P @ T @ P).mul_(c)
    noise = largest_noise(P, E, c)
    if type(noise) is Tensor and noise.device.type == "cpu":
        for k in (noise > LARGEST_NOISE).nonzero().flatten().tolist():
            G[k] = _seen_part(T[k], E[k], c)
    else:
        G = G.masked_fill((noise > LARGEST_NOISE_ON_GPU)[:, None, None], float("nan"))
    # Centered in exact arithmetic; in float32 the round-off of 1/c-sized entries is not.
    return center_stack((G + G.mT).div_(2), E.dtype)


def largest_noise(P: Tensor, E: Tensor, c: float) -> Tensor:
    """The round-off u c |P|^2 |T| / n of c P T P in float64, against c |T| / (|Kc| + c)^2; (b,).

    csrc/cpu/blind_noise.h has the same. Float32 algebra has no such ridges: too_coarse_for_ridge refuses them.
    """
    n = E.shape[-1]
    # Along ones P is 1 / c, and centering takes what comes of it.
    beside = _squares(P) - c**-2
    means = E.mean(-1, dtype=torch.float64)
    centered = _squares(E) - 2 * n * means.square().sum(-1) + n**2 * means.mean(-1).square()
    size = centered.clamp_min(0).sqrt() + c
    return torch.finfo(torch.float64).eps / n * beside.clamp_min(0) * size.square()


def _squares(matrices: Tensor) -> Tensor:
    return torch.linalg.vector_norm(matrices, dim=(-2, -1), dtype=torch.float64).square()


def _seen_part(T: Tensor, E: Tensor, c: float) -> Tensor:
    """c P T P of one matrix, but for what it has from where K is blind to where K is blind."""
    if not bool(torch.isfinite(E).all() & torch.isfinite(T).all()):
        return torch.full_like(T, float("nan"))
    values, vectors = torch.linalg.eigh(center_stack(E, torch.float64))
    blind = values <= SMALLEST_EIGENVALUE * torch.linalg.vector_norm(E, dtype=torch.float64)
    weights = 1 / (torch.where(blind, 0.0, values) + c)
    G = vectors.mT @ T.double() @ vectors
    G = (c * weights[:, None] * weights * G).masked_fill(blind[:, None] & blind, 0.0)
    return (vectors @ G @ vectors.mT).to(T.dtype)

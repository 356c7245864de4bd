# SPDX-License-Identifier: Apache-2.0
"""Whether a dtype resolves a Gram matrix up to centering; what it does not resolve is answered with NaN.

On the CPU an op then runs again in float64 (bido_ext/_float64.py), so the bounds are tight. Elsewhere NaN would
stay, and only what float32 cannot hold at all is refused.

With u the round-off, an entry of a Gaussian K - 1 is off by about u gamma (N_i + N_j) K, N_i the squared norm
of the centered row: many units where rows are far from the mean, and yet have neighbours. csrc/cpu/resolution.h
has the same bounds for the norms at hand there; here the entries have to do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bido_ext.reference.hsic import hsic_gradient
from bido_ext.reference.kernel_entries import (
    ENERGY,
    GAUSSIAN,
    INVERSE_MULTIQUADRIC,
    LABELS,
    LAPLACIAN,
    LINEAR,
    NOT_SMOOTH,
    scalar,
)

#: Of float32: the largest gamma D.
FARTHEST = 16.0
#: Of float32: the largest D of the inverse multiquadric kernel, whose near pairs weigh most.
FARTHEST_MULTIQUADRIC = 64.0
#: Of float32: K = 1 + e keeps its digits only where it is not small. Of the rows with the smallest means, a
#: share of all: duplicates have K = 1 beside each other, and no part in the gradient.
SMALLEST_MEAN, SHARE_OF_ROWS = 0.02, 8
#: Of float32 and the unbiased estimator: the norm of the entries after centering against that before.
LEAST_LEFT = 0.005
#: Of float32 and the linear kernel: the largest squared norm against the median.
LARGEST_OUTLIER = 100.0
#: Of float32: the largest noise of a feature gradient against its norm, and what K - 1 holds of a small K.
LARGEST_NOISE, SMALLEST_K = 3e-6, 3e-8
#: Of coco: the round-off of K times Lc, against Kc Lc.
LARGEST_PRODUCT_NOISE = 5e-6
#: Of float32: smaller entries lose digits to the smallest float, larger ones overflow in products.
SMALLEST, LARGEST = 1e-30, 1e30
#: Of nhsic: the round-off of K against eps n. Where float64 is no second try, float32 may be as coarse as that.
NHSIC_FLOAT32, NHSIC_FLOAT64, NHSIC_COARSE = 1e-4, 1e-6, 3e-3
#: Of nhsic of float32 features: the round-off of K times |H P H|; and against sqrt(n) |S| eps n. A gradient is
#: off by up to 2.6 times as much.
NHSIC_AMPLIFIED, NHSIC_BESIDE_FACTOR = 1.5e-5, 1e-6


def unresolved(E: Tensor, kind: int = GAUSSIAN) -> Tensor:
    """Whether float32 does not hold E (n, n) of features; a 0-d bool tensor. float64 does."""
    n = E.shape[-1]
    if E.dtype == torch.float64 or kind >= LABELS or n < 2:
        return torch.zeros((), dtype=torch.bool, device=E.device)
    bad = far_or_extreme(E, kind)
    if E.device.type != "cpu":
        return bad
    if kind == LINEAR:
        norms = E.diagonal()
        return bad | (norms.amax() > LARGEST_OUTLIER * norms.median())
    if kind in NOT_SMOOTH:  # float64 makes near distances from differences
        return torch.ones_like(bad)
    sums = E.sum(1, dtype=torch.float64)  # of K - 1, whose diagonal is 0
    smallest = sums.topk(max(1, n // SHARE_OF_ROWS), largest=False).values.mean()
    return bad | (smallest < (SMALLEST_MEAN - 1) * (n - 1))


def unbiased_cancels(E: Tensor) -> Tensor:
    """Whether off-diagonal centering leaves less than LEAST_LEFT of float32 entries E (n, n); 0-d bool.

    It takes a_i + a_j away from every entry beside the diagonal, and so all that one far sample does: what is
    left has lost as many digits. float64 has them.
    """
    n = E.shape[-1]
    if E.dtype == torch.float64 or n < 4:
        return torch.zeros((), dtype=torch.bool, device=E.device)
    left = n * (n - 3) * hsic_gradient(E.double(), unbiased=True)
    return left.norm() < LEAST_LEFT * (E - torch.diag(E.diagonal())).double().norm()


def far_or_extreme(E: Tensor, kind: int) -> Tensor:
    """Whether entries of a Gram matrix of features, or of a block of it, are beyond float32; 0-d bool."""
    if E.dtype == torch.float64 or kind >= LABELS or E.numel() == 0:
        return torch.zeros((), dtype=torch.bool, device=E.device)
    size = torch.linalg.vector_norm(E, float("inf"))
    if kind != LINEAR and E.device.type != "cpu":
        return size.isnan()
    if kind == GAUSSIAN:
        return ~((size >= SMALLEST) & (size <= -math.expm1(-FARTHEST)))
    extreme = ~((size >= SMALLEST) & (size <= LARGEST))
    if kind == LINEAR or kind in NOT_SMOOTH:
        return extreme
    # Of the inverse multiquadric K^-2 = 1 + D.
    return extreme | ((1 - size).square() * FARTHEST_MULTIQUADRIC < 1)


def too_coarse_for_ridge(E: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Whether the round-off of E (n, n) held in ``dtype`` is not small against eps n; a 0-d bool tensor.

    Its spectral norm is about u |E|_F / sqrt(n).
    """
    n = E.shape[-1]
    norm = torch.linalg.vector_norm(E, dtype=torch.float64)
    allowed = NHSIC_FLOAT32 if E.device.type == "cpu" else NHSIC_COARSE
    if dtype == torch.float64:
        allowed = NHSIC_FLOAT64
    return ~(torch.finfo(dtype).eps * norm <= allowed * eps * n**1.5)


def amplifies_roundoff(E: Tensor, S: Tensor, eps: float) -> Tensor:
    """Whether the round-off of float32 E (n, n) is too much in its float64 factor S of nhsic; 0-d bool.

    c |H P H| = |H - S| by three steps of the power method: a Gram matrix that is large against c = eps n in
    all directions is resolved, however small c is. Of few large directions the value may be small.
    """
    n = E.shape[-1]
    roundoff = torch.finfo(E.dtype).eps * torch.linalg.vector_norm(E, dtype=torch.float64) / n**0.5
    v = power_start(n, S.dtype, S.device)
    steps = [v]
    for _ in range(3):
        steps.append(steps[-1] - S @ steps[-1])
    before, after = (torch.linalg.vector_norm(step) for step in steps[-2:])
    rest = torch.where(before > 0, after / torch.where(before > 0, before, 1.0), 0 * after)
    size = n**0.5 * torch.linalg.vector_norm(S)
    allowed = (NHSIC_BESIDE_FACTOR * size).clamp_max(NHSIC_AMPLIFIED)
    return ~(roundoff * rest <= allowed * eps * n)


def product_is_noise(
    roundoffs: Sequence[float], sizes_of_others: Sequence[float], product: float
) -> bool:
    """Whether the round-off of K, times Lc, is seen beside Kc Lc.

    So it is with labels that tell only what K is nearly blind to, as the order within clusters far apart.

    Args:
        roundoffs: As in ``roundoff_of``, of both variables in turn; 0 where there is none.
        sizes_of_others: |Lc| and |Kc|.
        product: |Kc Lc|_F, or its largest singular value.
    """
    noise = sum(u * size for u, size in zip(roundoffs, sizes_of_others, strict=True))
    return noise > LARGEST_PRODUCT_NOISE * product


def roundoff_of(E: Tensor) -> Tensor:
    """The spectral norm of the round-off of float32 entries E (n, n) made on the CPU, 0-d; else 0."""
    size = torch.linalg.vector_norm(E, dtype=torch.float64)
    if E.dtype != torch.float32 or E.device.type != "cpu":
        return 0 * size
    return torch.finfo(E.dtype).eps * size / E.shape[-1] ** 0.5


def power_start(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A vector (n,) of mean 0 that no matrix is made for, where the power method starts."""
    v = (torch.arange(1, n + 1, device=device) * 2654435761 // 128 % 1024).to(dtype)
    return v - v.mean()


def nan_where_noise(
    gradient: Tensor, A: Tensor, E: Tensor, x: Tensor, parameter: Tensor, kind: int
) -> Tensor:
    """A feature gradient, NaN where float32 did not hold it; on the CPU.

    grad = A x - diag(A 1) x cancels where rows are far from the center and near each other, and A has no
    more digits than K = 1 + e; csrc/cpu/gradient_noise.h has the same.

    Args:
        gradient: (n, d), in float32 as the others.
        A: (n, n), its diagonal is 0; of the linear kernel as it is.
        E: The Gram matrix up to centering.
        x: Centered features (n, d).
    """
    if A.dtype != torch.float32 or A.device.type != "cpu":
        return gradient
    sizes = x.double().square().sum(1)
    weights = A.double()
    squares = weights.square() * (0.5 + _loss_of_weights(E, parameter, kind).square())
    squares = (squares * (sizes[:, None] + sizes[None, :])).sum()
    if kind != LINEAR:
        squares = squares + (weights.sum(1).square() * sizes).sum()
    noise = 0.5 * torch.finfo(A.dtype).eps * squares.sqrt()
    norm = torch.linalg.vector_norm(gradient, dtype=torch.float64)
    return gradient.masked_fill(noise > LARGEST_NOISE * norm, float("nan"))


def _loss_of_weights(E: Tensor, parameter: Tensor, kind: int) -> Tensor:
    """The relative error of weights, in round-offs of the entries E."""
    if kind == LINEAR:
        return torch.zeros((), dtype=torch.float64)
    if kind == ENERGY:
        return 1 - 2 / scalar(parameter).double()
    K = E.double() + 1
    power: float | Tensor = {INVERSE_MULTIQUADRIC: 3.0, LAPLACIAN: 2.0}.get(kind, 1.0)
    if kind not in (GAUSSIAN, INVERSE_MULTIQUADRIC, LAPLACIAN):
        power = 1 + 1 / parameter[1].double()
    return power * (K - 1) / K.clamp_min(SMALLEST_K)


def nan_where_unresolved(
    values: Tensor, bad: Sequence[Tensor], first: Sequence[int], second: Sequence[int]
) -> Tensor:
    """The values of pairs, NaN where one of the variables is not resolved.

    Args:
        bad: Per variable, a 0-d bool.
    """
    if not bad or not first:
        return values
    flags = torch.stack(list(bad))
    of_pairs = torch.stack([flags[a] | flags[b] for a, b in zip(first, second, strict=True)])
    return values.masked_fill(of_pairs, float("nan"))

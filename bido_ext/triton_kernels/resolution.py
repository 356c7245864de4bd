# SPDX-License-Identifier: Apache-2.0
"""Whether float32 resolves the Gram matrix of a variable: NaN where it does not, never a wrong number.

The error of an entry is about u |de/dD| (N_i + N_j), u the round-off and N_i the squared norm of the row less
the center: each entry is held against that (:mod:`bido_ext.triton_kernels.entry`). What only the whole matrix
shows is here: scales beyond float32, and K = 1 + e so small that e does not hold its digits. Nothing is read
back: the NaN travels with the values, into the gradients too.

On a CPU, in the interpreter, the op then runs again in float64 (bido_ext/_float64.py), and the bounds are those
of csrc/cpu/resolution.h. On a GPU the NaN stays, and the bounds allow errors of about 5e-5.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from bido_ext.reference import kernel_entries as kinds
from bido_ext.triton_kernels.launch import INTERPRETED, on_device
from bido_ext.triton_kernels.table import table

#: FARTHEST: the largest |de/dD| (N_i + N_j) of an entry. SMALLEST_MEAN: of K beside the diagonal. NEAREST: of
#: kernels that are not smooth, the smallest D / (N_i + N_j) above 0, below which weights are too large: the
#: difference of the rows is off by u times the root of the inverse.
#: TIGHT: float64 is a second try, so that outliers of the linear kernel, whose error is small against the matrix
#: but not against the other rows, are left to it.
ON_GPU = {"FARTHEST": 512.0, "SMALLEST_MEAN": 1e-3, "NEAREST": 1e-5, "TIGHT": False}
ON_CPU = {"FARTHEST": 32.0, "SMALLEST_MEAN": 0.02, "NEAREST": 1e-4, "TIGHT": True}
_BOUNDS = ON_CPU if INTERPRETED else ON_GPU
FARTHEST = tl.constexpr(_BOUNDS["FARTHEST"])
SMALLEST_MEAN = tl.constexpr(_BOUNDS["SMALLEST_MEAN"])
NEAREST = tl.constexpr(_BOUNDS["NEAREST"])
TIGHT = tl.constexpr(_BOUNDS["TIGHT"])
#: Of kernels that are not smooth: up to this D / (N_i + N_j) distances are made again from differences.
NEAR = tl.constexpr(1e-2)
#: Squared norms beyond these lose digits in products.
SMALLEST_NORM = tl.constexpr(1e-30)
LARGEST_NORM = tl.constexpr(1e30)
#: Of the linear kernel, where TIGHT: the largest norm against the median.
LARGEST_OUTLIER = tl.constexpr(100.0)

_LINEAR = tl.constexpr(kinds.LINEAR)
_LAPLACIAN = tl.constexpr(kinds.LAPLACIAN)
_ENERGY = tl.constexpr(kinds.ENERGY)
_IMQ = tl.constexpr(kinds.INVERSE_MULTIQUADRIC)


@triton.jit
def is_unresolved(
    kind, gamma, norms, spreads, spread_count, mean, n, WITH_MEAN: tl.constexpr, BLOCK: tl.constexpr
):
    """Whether float32 does not hold the matrix of one variable; a scalar.

    norms: Its [n] squared norms. spreads: Whether samples differ from the center, per block of columns.
    mean: Of K beside the diagonal, float64.
    """
    largest = tl.zeros((BLOCK,), tl.float32)
    bad = tl.zeros((BLOCK,), tl.int32)
    for begin in range(0, n, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        norm = tl.load(norms + at, mask=at < n, other=0.0)
        bad += (norm != norm).to(tl.int32)
        largest = tl.where(norm > largest, norm, largest)
    size = tl.max(largest, 0)
    differ = tl.zeros((BLOCK,), tl.int32)
    for begin in range(0, spread_count, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        differ += tl.load(spreads + at, mask=at < spread_count, other=0)
    # Constant features have a matrix of zeros; where squares vanish although samples differ, it is not known.
    constant = (size == 0.0) & (tl.sum(differ, 0) == 0)
    unresolved = (tl.sum(bad, 0) > 0) | (~((size >= SMALLEST_NORM) & (size <= LARGEST_NORM)))
    if kind == _LINEAR:
        if TIGHT:
            small = tl.zeros((BLOCK,), tl.int32)
            for begin in range(0, n, BLOCK):
                at = begin + tl.arange(0, BLOCK)
                norm = tl.load(norms + at, mask=at < n, other=float("inf"))
                small += (norm * LARGEST_OUTLIER < size).to(tl.int32)
            unresolved = unresolved | (2 * tl.sum(small, 0) > n)
    elif kind != _ENERGY:
        scale = gamma
        if kind == _LAPLACIAN:
            scale = gamma * gamma
        if kind == _IMQ:
            scale = gamma * 0.0 + 1.0
        held = (scale >= SMALLEST_NORM) & (scale <= LARGEST_NORM) & (scale * size >= SMALLEST_NORM)
        unresolved = unresolved | (~held)
        if WITH_MEAN:
            unresolved = unresolved | (~(mean >= SMALLEST_MEAN))
    return unresolved & (~constant) & (n > 1)


@triton.jit
def mark_unresolved_kernel(
    stack, norms, spreads, parameters, variables, n, parameter_stride,
    WITH_MEAN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """NaN for the first entry of each matrix that float32 does not hold; its mean is that of some rows."""
    own = variables + tl.program_id(0) * 5
    slot = tl.load(own)
    base = stack + slot.to(tl.int64) * n * n
    total = tl.zeros((BLOCK,), tl.float64)
    rows = min(n, ROWS)
    for r in range(rows):
        row = base + ((tl.full((), 0, tl.int64) + r) * n // rows) * n
        for begin in range(0, n, BLOCK):
            at = begin + tl.arange(0, BLOCK)
            total += tl.load(row + at, mask=at < n, other=0.0).to(tl.float64)
    mean = 1.0 + tl.sum(total, 0) / (rows * max(n - 1, 1))
    gamma = tl.load(parameters + tl.load(own + 1) * parameter_stride).to(tl.float32)
    lost = is_unresolved(
        tl.load(own + 2), gamma, norms + slot.to(tl.int64) * n, spreads + tl.load(own + 3),
        tl.load(own + 4), mean, n, WITH_MEAN, BLOCK,
    )  # fmt: skip
    if lost:
        tl.store(base, float("nan"))


def mark_unresolved(
    stack: Tensor, norms: Tensor, spreads: Tensor, parameters: Tensor, rows: list[tuple[int, ...]],
    with_mean: bool = True,
) -> None:  # fmt: skip
    """NaN for stack[slot, 0, 0] of each variable that float32 does not hold.

    Args:
        rows: Of each variable slot, index, kind, and begin and count of its spreads.
        with_mean: Whether entries are K - 1, which has the digits of K only where that is not small.
    """
    with on_device(stack):
        mark_unresolved_kernel[(len(rows),)](
            stack, norms, spreads, parameters, table(rows, stack.device), stack.shape[-1],
            parameters.stride(0) if parameters.dim() > 0 else 1,
            WITH_MEAN=with_mean, ROWS=16, BLOCK=512, num_warps=4,
        )  # fmt: skip

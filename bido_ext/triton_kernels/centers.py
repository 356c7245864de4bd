# SPDX-License-Identifier: Apache-2.0
"""A center of each variable that outliers do not move, and half-precision features without their offsets.

Distances do not depend on what is subtracted, but their digits do. The center of a column is the median of some
of its entries: it costs no pass over the features, up to almost half of the samples may be anything, and
constant columns become exact zeros. The linear kernel takes the mean, made of differences from that median.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bido_ext.triton_kernels.entry import pick
from bido_ext.triton_kernels.launch import on_device
from bido_ext.triton_kernels.table import table

#: Variables that one grouped launch takes.
MOST_PER_LAUNCH = 8
#: Rows whose median is the center.
SAMPLE = 32
#: Up to this n one program reads all rows of some columns; beyond, there would be too few of them.
ONE_PROGRAM_UP_TO = 1024
COLUMNS = 64


@dataclass(frozen=True)
class Centers:
    """Of some variables.

    Attributes:
        of: float32 [d] of each.
        spreads: int32, per block of columns whether the sampled rows differ from the center.
        spread_of: Begin and count there, of each variable.
    """

    of: list[Tensor]
    spreads: Tensor
    spread_of: list[tuple[int, int]]


@triton.jit
def sampled_row(place, n, SAMPLE: tl.constexpr):
    """The place-th of the rows whose median is taken: all of few rows."""
    return tl.where(n > SAMPLE, place.to(tl.int64) * n // SAMPLE, place.to(tl.int64))


@triton.jit
def centers_kernel(
    xs, centers, spreads, variables, n,
    COUNT: tl.constexpr, SAMPLE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    v = tl.program_id(1)
    own = variables + v * 5
    d = tl.load(own)
    if tl.program_id(0) * BLOCK_N >= d:
        return
    stride = tl.load(own + 1)
    x = pick(xs, v, COUNT)
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = columns < d
    place = tl.arange(0, SAMPLE)
    count = min(n, SAMPLE)
    sample = inside[None, :] & (place < count)[:, None]
    start = x + sampled_row(place, n, SAMPLE)[:, None] * stride
    value = tl.load(start + columns[None, :], mask=sample, other=0.0).to(tl.float32)
    rank = tl.zeros((SAMPLE, BLOCK_N), tl.int32)
    for m in range(count):
        at = x + sampled_row(m + tl.zeros((1,), tl.int32), n, SAMPLE)[:, None] * stride
        other = tl.load(at + columns[None, :], mask=inside[None, :], other=0.0).to(tl.float32)
        first = (other == value) & (m < place)[:, None]
        rank += ((other < value) | first).to(tl.int32)
    center = tl.sum(tl.where(sample & (rank == count // 2), value, 0.0), 0)
    differs = sample & (value != center[None, :])
    spread = tl.max(tl.max(differs.to(tl.int32), 1), 0)
    tl.store(spreads + tl.load(own + 3) + tl.program_id(0), spread)
    if tl.load(own + 4) != 0:  # the mean
        sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for begin in range(0, n, BLOCK_M):
            rows = begin + tl.arange(0, BLOCK_M)
            mask = (rows < n)[:, None] & inside[None, :]
            # Some hundred rows of a wide layer are more than 2^31 entries.
            at_rows = x + rows.to(tl.int64)[:, None] * stride + columns[None, :]
            here = tl.load(at_rows, mask=mask, other=0.0).to(tl.float32)
            sums += tl.where(mask, here - center[None, :], 0.0)
        center += tl.sum(sums, 0) / n
    tl.store(centers + tl.load(own + 2) + columns, center, mask=inside)


def centers_of(xs: Sequence[Tensor], with_mean: Sequence[bool]) -> Centers:
    """The centers of variables (n, d) with contiguous rows; means where asked for."""
    if not xs:
        return Centers([], torch.empty(0, dtype=torch.int32), [])
    n, device = xs[0].shape[0], xs[0].device
    widths = [x.shape[1] for x in xs]
    blocks = [triton.cdiv(d, COLUMNS) for d in widths]
    begins = [sum(widths[:k]) for k in range(len(xs))]
    spread_of = [(sum(blocks[:k]), blocks[k]) for k in range(len(xs))]
    centers = torch.empty(sum(widths), dtype=torch.float32, device=device)
    spreads = torch.empty(sum(blocks), dtype=torch.int32, device=device)
    by_kernel = [mean and n <= ONE_PROGRAM_UP_TO for mean in with_mean]
    for dtype in dict.fromkeys(x.dtype for x in xs):
        same = [k for k, x in enumerate(xs) if x.dtype == dtype]
        for begin in range(0, len(same), MOST_PER_LAUNCH):
            some = same[begin : begin + MOST_PER_LAUNCH]
            rows = [
                (widths[k], xs[k].stride(0), begins[k], spread_of[k][0], int(by_kernel[k]))
                for k in some
            ]
            with on_device(centers):
                centers_kernel[(max(blocks[k] for k in some), len(some))](
                    tuple(xs[k] for k in some), centers, spreads, table(rows, device), n,
                    COUNT=len(some), SAMPLE=SAMPLE, BLOCK_M=16, BLOCK_N=COLUMNS,
                )  # fmt: skip
    of = [centers[b : b + d] for b, d in zip(begins, widths, strict=True)]
    for k, mean in enumerate(with_mean):
        if mean and not by_kernel[k]:
            torch.mean(xs[k].float(), 0, out=of[k])
    return Centers(of, spreads, spread_of)


@triton.jit
def without_offsets_kernel(
    xs, outs, variables, n, COUNT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    v = tl.program_id(1)
    d = tl.load(variables + v * 2)
    if tl.program_id(0) * BLOCK_N >= d:
        return
    stride = tl.load(variables + v * 2 + 1)
    x = pick(xs, v, COUNT)
    out = pick(outs, v, COUNT)
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    lowest = tl.full((BLOCK_M, BLOCK_N), float("inf"), tl.float32)
    highest = tl.full((BLOCK_M, BLOCK_N), float("-inf"), tl.float32)
    for begin in range(0, n, BLOCK_M):
        rows = begin + tl.arange(0, BLOCK_M)
        mask = (rows < n)[:, None] & (columns < d)[None, :]
        start = x + rows.to(tl.int64)[:, None] * stride
        value = tl.load(start + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        lowest = tl.where(mask & (value < lowest), value, lowest)
        highest = tl.where(mask & (value > highest), value, highest)
    low = tl.min(lowest, 0)
    high = tl.max(highest, 0)
    offset = (0.5 * low + 0.5 * high).to(x.dtype.element_ty).to(tl.float32)
    near = ((low > 0.0) & (high <= 2.0 * low)) | ((high < 0.0) & (low >= 2.0 * high))
    offset = tl.where(near, offset, 0.0)
    for begin in range(0, n, BLOCK_M):
        rows = begin + tl.arange(0, BLOCK_M)
        mask = (rows < n)[:, None] & (columns < d)[None, :]
        start = x + rows.to(tl.int64)[:, None] * stride
        value = tl.load(start + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        target = out + rows.to(tl.int64)[:, None] * d + columns[None, :]
        tl.store(target, (value - offset[None, :]).to(x.dtype.element_ty), mask=mask)


def without_offsets(xs: Sequence[Tensor]) -> list[Tensor]:
    """Half-precision features less an offset per column wherever that is exact: where all entries of a column
    have one sign and differ by less than a factor of 2 (Sterbenz). Elsewhere a column differs by as much as
    its offset, which then costs no digits. float32 features as they are.
    """
    shifted = list(xs)
    for dtype in dict.fromkeys(x.dtype for x in xs if x.dtype.itemsize == 2):
        same = [k for k, x in enumerate(xs) if x.dtype == dtype]
        if xs[0].shape[0] > ONE_PROGRAM_UP_TO:
            for k in same:
                shifted[k] = _without_offsets_of_many(xs[k])
            continue
        for begin in range(0, len(same), MOST_PER_LAUNCH):
            some = same[begin : begin + MOST_PER_LAUNCH]
            outs = [torch.empty(xs[k].shape, dtype=dtype, device=xs[k].device) for k in some]
            rows = [(xs[k].shape[1], xs[k].stride(0)) for k in some]
            blocks = triton.cdiv(max(d for d, _ in rows), COLUMNS)
            with on_device(outs[0]):
                without_offsets_kernel[(blocks, len(some))](
                    tuple(xs[k] for k in some), tuple(outs), table(rows, outs[0].device),
                    xs[0].shape[0], COUNT=len(some), BLOCK_M=16, BLOCK_N=COLUMNS,
                )  # fmt: skip
            for k, out in zip(some, outs, strict=True):
                shifted[k] = out
    return shifted


def _without_offsets_of_many(x: Tensor) -> Tensor:
    low, high = (extreme.float() for extreme in torch.aminmax(x, dim=0))
    near = ((low > 0) & (high <= 2 * low)) | ((high < 0) & (low >= 2 * high))
    return x - torch.where(near, 0.5 * low + 0.5 * high, 0.0).to(x.dtype)

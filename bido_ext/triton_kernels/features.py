# SPDX-License-Identifier: Apache-2.0
"""The feature variables of a group as the kernels take them: rows, column means, precision of products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bido_ext._precision import tf32_allowed
from bido_ext.reference.gram_stack import GRAM, LABELS, LINEAR
from bido_ext.triton_kernels.entry import pick, pick_int
from bido_ext.triton_kernels.launch import on_device

#: Variables that one grouped launch takes.
MOST_PER_LAUNCH = 8
#: Up to this n the means of all variables are one launch; beyond, too few programs would read too many rows.
GROUPED_MEANS_UP_TO = 1024


def input_precision() -> str:
    """Of float32 products: float32 accuracy by three TF32 products, or TF32 where the user allows it."""
    return "tf32" if tf32_allowed() else "tf32x3"


@dataclass(frozen=True)
class Features:
    """One variable.

    Attributes:
        index: Its place in the group.
        slot: Its place among the features, and in the stack of Gram matrices.
        x: Features (n, d) with contiguous rows.
        means: float32 [d], subtracted from float32 features on the way into a product, which leaves
            distances and centered matrices unchanged and saves digits. Half-precision features go into
            their products as they are, so that no rounding is added; their means are never read.
    """

    index: int
    slot: int
    kind: int
    x: Tensor
    means: Tensor

    @property
    def n(self) -> int:
        return self.x.shape[0]

    @property
    def d(self) -> int:
        return self.x.shape[1]

    @property
    def centered(self) -> bool:
        """Whether the means are to be subtracted."""
        return self.x.dtype == torch.float32


def features_of(variables: Sequence[Tensor], kinds: Sequence[int]) -> list[Features]:
    """The variables of a group that are features; float64 ones are not served by these kernels."""
    rows: list[tuple[int, int, Tensor]] = []
    for i, (x, kind) in enumerate(zip(variables, kinds, strict=True)):
        if kind in (LABELS, GRAM):
            continue
        if kind == LINEAR:  # the only kernel whose own matrix holds the mean, not just distances
            x = x.float()
        x = x if x.stride(1) == 1 and x.stride(0) >= x.shape[1] else x.contiguous()
        rows.append((i, kind, x))
    means = _column_means([x for _, _, x in rows])
    return [Features(i, slot, kind, x, means[slot]) for slot, (i, kind, x) in enumerate(rows)]


@triton.jit
def column_means_kernel(
    xs, means, widths, strides, n, COUNT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    v = tl.program_id(1)
    d = pick_int(widths, v, COUNT)
    x = pick(xs, v, COUNT)
    stride = pick_int(strides, v, COUNT)
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    if tl.program_id(0) * BLOCK_N >= d:
        return
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for begin in range(0, n, BLOCK_M):
        rows = begin + tl.arange(0, BLOCK_M)
        mask = (rows < n)[:, None] & (columns < d)[None, :]
        # Some hundred rows of a wide layer are more than 2^31 entries.
        start = x + rows.to(tl.int64)[:, None] * stride
        sums += tl.load(start + columns[None, :], mask=mask, other=0.0)
    tl.store(pick(means, v, COUNT) + columns, tl.sum(sums, 0) / n, mask=columns < d)


def _column_means(xs: Sequence[Tensor]) -> list[Tensor]:
    """float32 [d] of the float32 features; of the others something that is never read."""
    means = [torch.empty(x.shape[1], dtype=torch.float32, device=x.device) for x in xs]
    chosen = [k for k, x in enumerate(xs) if x.dtype == torch.float32]
    if chosen and xs[0].shape[0] > GROUPED_MEANS_UP_TO:
        for k in chosen:
            torch.mean(xs[k], 0, out=means[k])
        return means
    for begin in range(0, len(chosen), MOST_PER_LAUNCH):
        group = chosen[begin : begin + MOST_PER_LAUNCH]
        BLOCK_M, BLOCK_N = 16, 64
        widest = max(xs[k].shape[1] for k in group)
        with on_device(xs[0]):
            column_means_kernel[(triton.cdiv(widest, BLOCK_N), len(group))](
                tuple(xs[k] for k in group), tuple(means[k] for k in group),
                tuple(xs[k].shape[1] for k in group), tuple(xs[k].stride(0) for k in group),
                xs[0].shape[0], COUNT=len(group), BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
            )  # fmt: skip
    return means


def launches(features: Sequence[Features]) -> Iterator[list[Features]]:
    """Groups of one dtype, small enough for one launch."""
    for dtype in dict.fromkeys(f.x.dtype for f in features):
        same = [f for f in features if f.x.dtype == dtype]
        for begin in range(0, len(same), MOST_PER_LAUNCH):
            yield same[begin : begin + MOST_PER_LAUNCH]

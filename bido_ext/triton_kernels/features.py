# SPDX-License-Identifier: Apache-2.0
"""The feature variables of a group as the kernels take them: rows, their center, precision of products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bido_ext._precision import tf32_allowed
from bido_ext.reference.kernel_entries import LABELS, LINEAR
from bido_ext.triton_kernels.centers import MOST_PER_LAUNCH, Centers, centers_of, without_offsets


def input_precision() -> str:
    """Of float32 products: float32 accuracy by three TF32 products, or TF32 where the user allows it."""
    return "tf32" if tf32_allowed() else "tf32x3"


@dataclass(frozen=True)
class Features:
    """One variable.

    Attributes:
        index: Its place in the group.
        slot: Its place among the features, and in the stack of Gram matrices.
        x: Features (n, d) with contiguous rows; of half precision without their offsets, exactly.
        center: float32 [d], subtracted from float32 features on the way into a product, which leaves
            distances and centered matrices unchanged and saves digits. Half-precision features go into
            the products of Gram matrices as they are, so that no rounding is added.
        spread: Whether the samples differ from the center: begin and count in ``spreads``.
        spreads: Those of all features, int32.
    """

    index: int
    slot: int
    kind: int
    x: Tensor
    center: Tensor
    spread: tuple[int, int]
    spreads: Tensor

    @property
    def n(self) -> int:
        return self.x.shape[0]

    @property
    def d(self) -> int:
        return self.x.shape[1]

    @property
    def centered(self) -> bool:
        """Whether the center is to be subtracted before a product of the rows with each other."""
        return self.x.dtype == torch.float32

    @property
    def marks(self) -> tuple[int, ...]:
        """What :mod:`bido_ext.triton_kernels.resolution` asks of it."""
        return self.slot, self.index, self.kind, *self.spread


def features_of(variables: Sequence[Tensor], kinds: Sequence[int]) -> list[Features]:
    """The variables of a group that are features; float64 ones are not served by these kernels."""
    rows: list[tuple[int, int, Tensor]] = []
    for i, (x, kind) in enumerate(zip(variables, kinds, strict=True)):
        if kind >= LABELS:
            continue
        if kind == LINEAR:  # the only kernel whose own matrix holds the mean, not just distances
            x = x.float()
        x = x if x.stride(1) == 1 and x.stride(0) >= x.shape[1] else x.contiguous()
        rows.append((i, kind, x))
    xs = without_offsets([x for _, _, x in rows])
    made: Centers = centers_of(xs, [kind == LINEAR for _, kind, _ in rows])
    return [
        Features(i, slot, kind, x, made.of[slot], made.spread_of[slot], made.spreads)
        for slot, ((i, kind, _), x) in enumerate(zip(rows, xs, strict=True))
    ]


def launches(features: Sequence[Features]) -> Iterator[list[Features]]:
    """Groups of one dtype, small enough for one launch."""
    for dtype in dict.fromkeys(f.x.dtype for f in features):
        same = [f for f in features if f.x.dtype == dtype]
        for begin in range(0, len(same), MOST_PER_LAUNCH):
            yield same[begin : begin + MOST_PER_LAUNCH]

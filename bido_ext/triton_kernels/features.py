# SPDX-License-Identifier: Apache-2.0
"""The feature variables of a group as the kernels take them: rows, column means, precision of products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bido_ext.reference.gram_stack import GRAM, LABELS, LINEAR

#: Variables that one grouped launch takes.
MOST_PER_LAUNCH = 8


def input_precision() -> str:
    """Of float32 products: float32 accuracy by three TF32 products, or TF32 where the user allows it."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


@dataclass(frozen=True)
class Features:
    """One variable.

    Attributes:
        index: Its place in the group.
        slot: Its place among the features, and in the stack of Gram matrices.
        x: Features (n, d) with contiguous rows.
        means: float32 [d], subtracted from float32 features on the way into a product, which leaves
            distances and centered matrices unchanged and saves digits. Half-precision features go into
            their products as they are, so that no rounding is added; their means are zeros.
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
    found: list[Features] = []
    for i, (x, kind) in enumerate(zip(variables, kinds, strict=True)):
        if kind in (LABELS, GRAM):
            continue
        if kind == LINEAR:  # the only kernel whose own matrix holds the mean, not just distances
            x = x.float()
        x = x if x.stride(1) == 1 and x.stride(0) >= x.shape[1] else x.contiguous()
        means = x.mean(0) if x.dtype == torch.float32 else x.new_zeros(1, dtype=torch.float32)
        found.append(Features(i, len(found), kind, x, means))
    return found


def launches(features: Sequence[Features]) -> Iterator[list[Features]]:
    """Groups of one dtype, small enough for one launch."""
    for dtype in dict.fromkeys(f.x.dtype for f in features):
        same = [f for f in features if f.x.dtype == dtype]
        for begin in range(0, len(same), MOST_PER_LAUNCH):
            yield same[begin : begin + MOST_PER_LAUNCH]

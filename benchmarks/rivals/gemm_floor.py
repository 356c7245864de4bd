# SPDX-License-Identifier: Apache-2.0
"""The floor of bido_ext.serving.floor with operands that take turns on a GPU, as all other inputs do."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from benchmarks.input_sets import Rotation, how_many
from bido_ext.serving import floor
from bido_ext.serving.floor import Call, FloorPart


def floor_calls(parts: Iterable[FloorPart], dtype: torch.dtype, device: str) -> dict[str, Call]:
    """One measurable call for each distinct part."""

    def in_turns(size: int, make: Callable[[], Call]) -> Call:
        return Rotation([make() for _ in range(how_many(size, device))]).call(lambda call: call())

    return floor.floor_calls(parts, dtype, device, in_turns)

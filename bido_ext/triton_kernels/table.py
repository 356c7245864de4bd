# SPDX-License-Identifier: Apache-2.0
"""Whole numbers that describe a group, in device memory: loops over them are loops of the device, so the time
to compile does not grow with the group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Rows = tuple[tuple[int, ...], ...]
#: The same numbers come in every step: they travel once. Forgotten together when there are too many.
_kept: dict[tuple[Rows, torch.device], Tensor] = {}
MOST_KEPT = 1024
#: What a CUDA graph has recorded has to live as long as the graph may be replayed.
_recorded: dict[tuple[Rows, torch.device], Tensor] = {}


def table(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """int32 [rows, columns] on the device."""
    key = tuple(tuple(row) for row in rows), device
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    found = _recorded.get(key)
    if found is None:
        found = _kept.get(key)
    if found is None:
        if (
            capturing
        ):  # nothing may travel now, and what a capture makes is filled again at every replay
            return _filled(key[0], device)
        if len(_kept) >= MOST_KEPT:
            _kept.clear()
        with torch.inference_mode(False):
            found = _kept[key] = torch.tensor(key[0], dtype=torch.int32, device=device)
    if capturing:
        _recorded[key] = found
    return found


def _filled(values: Rows, device: torch.device) -> Tensor:
    made = torch.empty((len(values), len(values[0])), dtype=torch.int32, device=device)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            made[i, j].fill_(value)
    return made

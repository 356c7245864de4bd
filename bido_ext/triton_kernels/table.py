# SPDX-License-Identifier: Apache-2.0
"""Whole numbers that describe a group, in device memory: loops over them are loops of the device, so the time
to compile does not grow with the group."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


def table(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """int32 [rows, columns] on the device. The same numbers come in every step: they travel once."""
    values = tuple(tuple(row) for row in rows)
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return _filled(values, device)  # nothing may travel during a capture
    return _kept(values, device)


@functools.lru_cache(maxsize=1024)
def _kept(values: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.int32, device=device)


def _filled(values: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    made = torch.empty((len(values), len(values[0])), dtype=torch.int32, device=device)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            made[i, j].fill_(value)
    return made

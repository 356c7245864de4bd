# SPDX-License-Identifier: Apache-2.0
"""Autocast switched off, also where it does not exist."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A context without autocast; tensors on the meta device have none."""
    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)

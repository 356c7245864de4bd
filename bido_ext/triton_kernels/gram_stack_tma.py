# SPDX-License-Identifier: Apache-2.0
"""gram_stack with operands that the bulk copy engine carries; the backward is that of the other kernels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from bido_ext.triton_kernels import gram_stack as plain
from bido_ext.triton_kernels.features import Features
from bido_ext.triton_kernels.gram_panel import gram_panel
from bido_ext.triton_kernels.norms import squared_norms
from bido_ext.triton_kernels.tma_gram import SMOOTH, tma_gram


def fill_grams(features: Sequence[Features], parameters: Tensor, out: Tensor) -> Tensor:
    """One variable after the other, so that only one copy is alive; returns the squared norms."""
    norms = torch.empty(out.shape[:2], dtype=torch.float32, device=out.device)
    for f in features:
        of_rows, parameter = norms[f.slot], parameters[f.index]
        if f.kind in SMOOTH:
            tma_gram(f, of_rows, parameter, out[f.slot])
        else:
            gram_panel(f, squared_norms(f, of_rows), parameter, out[f.slot])
    return norms


gram_stack = partial(plain.gram_stack, fill=fill_grams)
gram_stack_backward = plain.gram_stack_backward

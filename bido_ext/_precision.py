# SPDX-License-Identifier: Apache-2.0
"""Whether float32 products on a GPU may be TF32, asked in one place."""

from __future__ import annotations

import torch


def tf32_allowed() -> bool:
    """What the user allows, through either of PyTorch's two ways to say it.

    ``torch.get_float32_matmul_precision()`` raises where the newer ``torch.backends`` settings were used.
    """
    try:
        return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")
    except (AttributeError, RuntimeError):
        return torch.get_float32_matmul_precision() != "highest"

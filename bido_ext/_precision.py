# SPDX-License-Identifier: Apache-2.0
"""Whether float32 products on a GPU may be TF32, asked in one place."""

from __future__ import annotations

from collections.abc import Callable

import torch

#: What ``torch.backends.cuda.matmul.fp32_precision`` asks, ten times faster than through its modules, and
#: every call of an op on a GPU asks. Older versions of PyTorch do not have it.
_precision_of: Callable[[str, str], str] | None = getattr(
    torch._C, "_get_fp32_precision_getter", None
)


def tf32_allowed() -> bool:
    """What the user allows, through either of PyTorch's two ways to say it.

    ``torch.get_float32_matmul_precision()`` raises where the newer ``torch.backends`` settings were used.
    """
    if _precision_of is not None:
        return _precision_of("cuda", "matmul") == "tf32"
    try:
        return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")
    except (AttributeError, RuntimeError):
        return torch.get_float32_matmul_precision() != "highest"

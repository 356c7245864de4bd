# SPDX-License-Identifier: Apache-2.0
"""What of the Gram matrices the kernels of a device keep, and whether they can do without."""

from __future__ import annotations

import torch

from bido_ext.serving import libraries


def keeps_tiles(device: str) -> bool:
    """Whether hsic keeps the upper tiles of a Gram matrix on ``device``; elsewhere it keeps it whole."""
    return device == "cpu" and libraries.native_on_cpu()


def can_stream(device: str, dtype: torch.dtype) -> bool:
    """Whether hsic of features accumulating in ``dtype`` can run without n x n matrices on ``device``."""
    if device == "cuda":
        return libraries.FORCED is None or (
            libraries.FORCED != "reference" and dtype != torch.float64
        )
    return keeps_tiles(device) or (dtype != torch.float64 and libraries.kernels_on(device))

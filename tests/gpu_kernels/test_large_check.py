# SPDX-License-Identifier: Apache-2.0
"""The checker of tests/test_gpu_large_n.py on the emulated kernels, by the path that many samples take on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_gpu_large_n import FAMILIES, LargeCheck, products


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("dtype", "precision"),
    [
        (torch.float32, "highest"),
        pytest.param(torch.float32, "high", marks=pytest.mark.slow),
        (torch.float16, "high"),
    ],
)
def test_whole_matrices(cuda_kernels: Any, family: str, dtype: torch.dtype, precision: str) -> None:
    cuda_kernels.share_columns(False)
    with products(precision):
        LargeCheck(cuda_kernels.functions, 150, 70, dtype, "cpu", tf32=precision == "high").run(
            family
        )

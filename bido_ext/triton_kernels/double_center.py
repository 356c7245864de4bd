# SPDX-License-Identifier: Apache-2.0
"""double_center in Triton; see :mod:`bido_ext.ops.double_center`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bido_ext.triton_kernels.launch import on_device


@triton.jit
def subtract_means_kernel(
    K, row_means, column_means, total_mean, out, n, row_stride, column_stride,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    j = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (i < n)[:, None] & (j < n)[None, :]
    at = i.to(tl.int64)[:, None] * row_stride + j.to(tl.int64)[None, :] * column_stride
    value = tl.load(K + at, mask=mask, other=0.0)
    row = tl.load(row_means + i, mask=i < n, other=0.0)
    column = tl.load(column_means + j, mask=j < n, other=0.0)
    # In float64: K may hold a constant far larger than what is left.
    value = value.to(tl.float64) - row[:, None] - (column[None, :] - tl.load(total_mean))
    target = out + i.to(tl.int64)[:, None] * n + j[None, :]
    tl.store(target, value.to(out.dtype.element_ty), mask=mask)


def double_center(K: Tensor) -> Tensor:
    """H K H, (n, n), in the dtype of K, float32 or float64."""
    n = K.shape[0]
    rows, columns = K.mean(1, dtype=torch.float64), K.mean(0, dtype=torch.float64)
    out = torch.empty((n, n), dtype=K.dtype, device=K.device)
    # Of a transposed matrix rows lie apart: a square block reads and writes whole sectors.
    BLOCK_M, BLOCK_N = (8, 128) if K.stride(1) == 1 else (32, 32)
    with on_device(K):
        subtract_means_kernel[(triton.cdiv(n, BLOCK_M), triton.cdiv(n, BLOCK_N))](
            K, rows, columns, rows.mean(), out, n, K.stride(0), K.stride(1), BLOCK_M=BLOCK_M,
            BLOCK_N=BLOCK_N,
        )  # fmt: skip
    return out

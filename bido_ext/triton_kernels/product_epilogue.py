# SPDX-License-Identifier: Apache-2.0
"""What follows a product of PyTorch's in one pass: inner products to Gram entries, entries to weights."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bido_ext.triton_kernels.entry import entry_of_distance, feature_weight, squared_distance
from bido_ext.triton_kernels.launch import on_device

BLOCK_M, BLOCK_N = 8, 128
#: Four round-offs of float32 (composed/_panels.py).
LOST_DISTANCE = tl.constexpr(4 * torch.finfo(torch.float32).eps)


@triton.jit
def entries_kernel(
    products, norms, parameter, first_row, rows, n, row_stride, kind: tl.constexpr,
    PARAMETERS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    j = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (i < rows)[:, None] & (j < n)[None, :]
    at = products + i.to(tl.int64)[:, None] * row_stride + j[None, :]
    inner = tl.load(at, mask=mask, other=0.0)
    norm_i = tl.load(norms + first_row + i, mask=i < rows, other=0.0)
    norm_j = tl.load(norms + j, mask=j < n, other=0.0)
    distance = squared_distance(norm_i[:, None], norm_j[None, :], inner)
    lost = distance <= (norm_i[:, None] + norm_j[None, :]) * LOST_DISTANCE
    distance = tl.where(lost & (distance < float("inf")), 0.0, distance)
    # 0, and the NaN of bad features stays.
    own = (i + first_row)[:, None] == j[None, :]
    distance = tl.where(own, distance - distance, distance)
    gamma = tl.load(parameter)
    alpha = gamma
    if PARAMETERS > 1:
        alpha = tl.load(parameter + 1)
    tl.store(at, entry_of_distance(kind, distance, gamma, alpha, True), mask=mask)


@triton.jit
def weights_kernel(
    g, entries, parameter, out, first_row, rows, n, g_stride, row_stride, kind: tl.constexpr,
    PARAMETERS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    j = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (i < rows)[:, None] & (j < n)[None, :]
    entry = tl.load(
        entries + i.to(tl.int64)[:, None] * row_stride + j[None, :], mask=mask, other=0.0
    )
    slope = tl.load(g + i.to(tl.int64)[:, None] * g_stride + j[None, :], mask=mask, other=0.0)
    gamma = tl.load(parameter)
    alpha = gamma
    if PARAMETERS > 1:
        alpha = tl.load(parameter + 1)
    weight = feature_weight(kind, entry, slope, gamma, alpha, False)
    # A_ii cancels; its round-off would drown small weights.
    weight = tl.where((i + first_row)[:, None] == j[None, :], 0.0, weight)
    tl.store(out + i.to(tl.int64)[:, None] * n + j[None, :], weight, mask=mask)


def entries_of_products(
    products: Tensor, norms: Tensor, first_row: int, parameter: Tensor, kind: int
) -> None:
    """In place: inner products of rows first_row .. with all, (rows, n) float32, to Gram entries up to centering.

    Args:
        norms: Squared norms of all rows [n], float32.
        parameter: Of the variable, 0-d or (parameters,), float32.
        kind: Of bido_ext.reference.kernel_entries, a smooth kernel or not, not linear.
    """
    rows, n = products.shape
    with on_device(products):
        entries_kernel[(triton.cdiv(rows, BLOCK_M), triton.cdiv(n, BLOCK_N))](
            products, norms, parameter.contiguous(), first_row, rows, n, products.stride(0), kind,
            PARAMETERS=parameter.numel(), BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
        )  # fmt: skip


def weights_of_entries(
    g: Tensor, entries: Tensor, first_row: int, parameter: Tensor, kind: int
) -> Tensor:
    """A (rows, n) float32 of entries and their symmetric gradient g (rows, n), float32; 0 on the diagonal."""
    rows, n = entries.shape
    g, entries = (t if t.stride(1) == 1 else t.contiguous() for t in (g, entries))
    out = torch.empty((rows, n), dtype=torch.float32, device=g.device)
    with on_device(g):
        weights_kernel[(triton.cdiv(rows, BLOCK_M), triton.cdiv(n, BLOCK_N))](
            g, entries, parameter.contiguous(), out, first_row, rows, n, g.stride(0),
            entries.stride(0), kind, PARAMETERS=parameter.numel(), BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
        )  # fmt: skip
    return out

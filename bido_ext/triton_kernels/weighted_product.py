# SPDX-License-Identifier: Apache-2.0
"""grad_x = (A - diag(A 1)) x of several variables in one launch; A x for the linear kernel.

The row sums are those of the weights as the product takes them, so that a constant added to the features
cancels as exactly as it does on paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from bido_ext.reference.gram_stack import LINEAR
from bido_ext.triton_kernels.entry import pick, round_to_tf32
from bido_ext.triton_kernels.features import Features, input_precision, launches
from bido_ext.triton_kernels.gram_panel import row_offsets
from bido_ext.triton_kernels.launch import INTERPRETED, Config, on_device, size_class, tuned
from bido_ext.triton_kernels.table import table

#: As in gram_panel.
CONFIGS = (
    Config(64, 64, 32, 4, 3),
    Config(64, 64, 32, 8, 3),
    Config(128, 64, 32, 8, 3),
    Config(128, 128, 32, 8, 2),
)
GROUP_ROWS = 8


@triton.jit
def weighted_product_kernel(
    weights, xs, centers, outs, variables, n, row_begin, row_count, weight_stride,
    COUNT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    v = tl.program_id(1)
    own_row = variables + v * 5
    d = tl.load(own_row)
    blocks_m = tl.cdiv(row_count, BLOCK_M)
    blocks_n = tl.cdiv(d, BLOCK_N)
    pid = tl.program_id(0)
    if pid >= blocks_m * blocks_n:
        return
    first = pid // (GROUP * blocks_n) * GROUP
    height = min(blocks_m - first, GROUP)
    within = pid % (GROUP * blocks_n)
    i_begin = (first + within % height) * BLOCK_M
    j_begin = (within // height) * BLOCK_N
    i = tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    x = pick(xs, v, COUNT) + j_begin
    stride = tl.load(own_row + 1)
    # Offsets from the first row of a block are of 32 bits, as in gram_panel.
    own_weights = (
        weights + (tl.load(own_row + 2) * row_count + i_begin).to(tl.int64) * weight_stride
    )
    weight_offsets = row_offsets(row_count - i_begin, weight_stride, BLOCK_M) + depth[None, :]
    x_offsets = depth[:, None] * stride + columns[None, :]
    in_columns = columns < d - j_begin
    TF32: tl.constexpr = PRECISION == "tf32"
    center = centers + tl.load(own_row + 3) + j_begin
    offset = tl.load(center + columns, mask=in_columns, other=0.0)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    sums = tl.zeros((BLOCK_M,), tl.float32)
    for k in range(0, n, BLOCK_K):
        in_depth = depth < n - k
        a = tl.load(own_weights + k + weight_offsets, mask=in_depth[None, :], other=0.0)
        if TF32:
            a = round_to_tf32(a)
        x_here = x + tl.cast(k, tl.int64) * stride
        b = tl.load(x_here + x_offsets, mask=in_depth[:, None] & in_columns[None, :], other=0.0)
        b = b.to(tl.float32) - offset[None, :]
        if TF32:
            b = round_to_tf32(b)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
        sums += tl.sum(a, 1)
    mask = (i < row_count - i_begin)[:, None] & in_columns[None, :]
    own_rows = x + tl.cast(row_begin + i_begin, tl.int64) * stride
    own = tl.load(own_rows + (i[:, None] * stride + columns[None, :]), mask=mask, other=0.0)
    own = own.to(tl.float32) - offset[None, :]
    if TF32:
        own = round_to_tf32(own)
    if tl.load(own_row + 4) != 0:
        acc -= sums[:, None] * own
    out = pick(outs, v, COUNT) + tl.cast(row_begin + i_begin, tl.int64) * d + j_begin
    tl.store(out + (i[:, None] * d + columns[None, :]), acc.to(out.dtype.element_ty), mask=mask)


def multiply_panel(
    weights: Tensor, features: Sequence[Features], outs: Sequence[Tensor], row_begin: int = 0
) -> None:
    """Rows row_begin.. of each outs[i] from weights (variables, rows, n), by each variable's place there.

    Args:
        weights: Contiguous, float32.
        features: Variables in the order of the weights.
        outs: Contiguous (n, d), in the dtype of the gradient.
    """
    rows, n = weights.shape[1:]
    places = {id(f): place for place, f in enumerate(features)}
    precision = input_precision()
    for group in launches(features):
        widest = max(f.d for f in group)
        targets = tuple(outs[places[id(f)]] for f in group)
        base = group[0].center
        rows_of_group = [
            (
                f.d, f.x.stride(0), places[id(f)], int(f.center.storage_offset() - base.storage_offset()),
                int(f.kind != LINEAR),
            )
            for f in group
        ]  # fmt: skip
        variables = table(rows_of_group, weights.device)

        def run(  # type: ignore[no-untyped-def]
            config: Config,
            group=group,
            targets=targets,
            variables=variables,
            base=base,
            widest=widest,
        ) -> None:
            grid = (triton.cdiv(rows, config.m) * triton.cdiv(widest, config.n), len(group))
            with on_device(weights):
                weighted_product_kernel[grid](
                    weights, tuple(f.x for f in group), base, targets, variables, n, row_begin,
                    rows, weights.stride(1), COUNT=len(group), PRECISION=precision,
                    BLOCK_M=config.m, BLOCK_N=config.n, BLOCK_K=config.k, GROUP=GROUP_ROWS,
                    **config.options(),
                )  # fmt: skip

        key = (
            str(group[0].x.dtype),
            precision,
            size_class(rows),
            size_class(n),
            size_class(widest),
        )
        rows_written = targets[0][row_begin : row_begin + rows]
        run(tuned("weighted_product", CONFIGS, run, key, weights, rows_written))


def gradient_dtype(f: Features) -> torch.dtype:
    """That of the features, in which the kernel stores; the interpreter would truncate to bfloat16."""
    return torch.float32 if INTERPRETED else f.x.dtype


def weighted_products(
    weights: Tensor, features: Sequence[Features], dtypes: Sequence[torch.dtype]
) -> list[Tensor]:
    """(A - diag(A 1)) x of each variable, in the dtype asked for."""
    outs = [torch.empty(f.x.shape, dtype=gradient_dtype(f), device=f.x.device) for f in features]
    multiply_panel(weights, features, outs)
    return [out.to(dtype) for out, dtype in zip(outs, dtypes, strict=True)]

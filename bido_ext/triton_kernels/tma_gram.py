# SPDX-License-Identifier: Apache-2.0
"""One Gram matrix up to centering of features that the bulk copy engine (TMA) carries; docs/heavy_product.md.

Persistent programs walk over the tiles on and above the diagonal. A tile's operands come by tensor descriptors
from rows that are centered and rounded already (:mod:`bido_ext.triton_kernels.tma_operands`), so that no thread
touches them; its entries are written with their mirror image. A second launch makes the blocks on the diagonal
symmetric to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from bido_ext.reference import kernel_entries as kinds
from bido_ext.triton_kernels.entry import (
    RATIONAL_QUADRATIC,
    diagonal_entry,
    gram_entry,
    squared_distance,
)
from bido_ext.triton_kernels.features import Features
from bido_ext.triton_kernels.launch import (
    INTERPRETED,
    Config,
    multiprocessors,
    on_device,
    size_class,
    tuned,
)
from bido_ext.triton_kernels.tma_operands import Operands, operands_of
from bido_ext.triton_kernels.tma_product import (
    CONFIGS,
    EPILOGUE,
    INTERPRETER_CONFIG,
    add_products,
    carried,
    columns_of,
    numbers_of,
)

#: The tensor cores truncate what they add up: after this many columns the sum goes to memory.
CHUNK = 2048
#: Kernels of the rest, whose near distances are made again from differences, have no room here.
SMOOTH = (kinds.GAUSSIAN, kinds.LINEAR, kinds.INVERSE_MULTIQUADRIC, kinds.RATIONAL_QUADRATIC)


@triton.jit
def tile_at(t, REACH: tl.constexpr):
    """Row and column of the t-th tile on or above the diagonal, column by column; a tile is REACH times as wide
    as it is high."""
    column = ((tl.sqrt_rn(1.0 + 8.0 * (t // REACH).to(tl.float32)) - 1.0) * 0.5).to(tl.int32)
    # The root is rounded.
    while (column + 1) * (column + 2) // 2 * REACH <= t:
        column += 1
    while column * (column + 1) // 2 * REACH > t:
        column -= 1
    return t - column * (column + 1) // 2 * REACH, column


@triton.jit
def tma_gram_kernel(
    left_rows, right_rows, norms, parameter, out, partial, n, steps, chunk_steps, whole, work,
    splits, out_stride,
    KIND: tl.constexpr, MINUS_ONE: tl.constexpr, TERMS: tl.constexpr, LEFT: tl.constexpr,
    RIGHT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """TERMS products of parts; LEFT and RIGHT hold the numbers of their parts, two bits each. The first tiles are
    made whole; of each further one a program makes the products of some steps, for :func:`joined_kernel`."""
    i = tl.arange(0, BLOCK_M)[:, None]
    j = tl.arange(0, WIDTH)[None, :]
    gamma = tl.load(parameter).to(tl.float32)
    alpha = gamma
    if KIND == RATIONAL_QUADRATIC:
        alpha = tl.load(parameter + 1).to(tl.float32)
    for item in tl.range(tl.program_id(0), work, tl.num_programs(0), disable_licm=True):
        # The interpreter counts in Python's numbers.
        w = tl.full((), 0, tl.int32) + item
        is_whole = w < whole
        split = tl.where(is_whole, 0, (w - whole) % splits)
        share = tl.where(is_whole, 1, splits)
        t = tl.where(is_whole, w, whole + (w - whole) // splits)
        block_m, block_n = tile_at(t, BLOCK_N // BLOCK_M)
        i_begin = block_m * BLOCK_M
        j_begin = block_n * BLOCK_N
        rows = i < n - i_begin
        target = out + i_begin.to(tl.int64) * out_stride + j_begin
        stride = out_stride
        if not is_whole:
            target = partial + (w - whole).to(tl.int64) * (BLOCK_M * BLOCK_N)
            stride = BLOCK_N
        # All small terms and the first columns of the last one; then the others, chunk by chunk.
        all_steps = TERMS * steps
        begin = all_steps * split // share
        stop = all_steps * (split + 1) // share
        first = True
        while begin < stop:
            chunk = tl.maximum(begin - (TERMS - 1) * steps, 0) // chunk_steps
            end = tl.minimum(stop, (TERMS - 1) * steps + (chunk + 1) * chunk_steps)
            acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            acc = add_products(
                acc, left_rows, right_rows, n, n, i_begin, j_begin, begin, end, steps, LEFT, RIGHT,
                BLOCK_K,
            )  # fmt: skip
            last = is_whole & (end == stop)
            for part in tl.static_range(BLOCK_N // WIDTH):
                value = columns_of(acc, part, BLOCK_N // WIDTH)
                columns = j < n - j_begin - part * WIDTH
                at = target + part * WIDTH + (i * stride + j)
                if not first:
                    value += tl.load(at, mask=rows & columns, other=0.0)
                if last:
                    norm_i = tl.load(norms + i_begin + i, mask=rows, other=0.0)
                    norm_j = tl.load(norms + j_begin + part * WIDTH + j, mask=columns, other=0.0)
                    distance = squared_distance(norm_i, norm_j, value)
                    value = gram_entry(
                        KIND, norm_i + norm_j, value, distance, gamma, alpha, MINUS_ONE
                    )
                    # Beside the diagonal's blocks, which their tiles write whole.
                    above = i_begin + BLOCK_M + 0 * i <= j_begin  # as a block, or it is no mask
                    mirror = out + (j_begin + part * WIDTH).to(tl.int64) * out_stride + i_begin
                    tl.store(mirror + (j * out_stride + i), value, mask=rows & columns & above)
                tl.store(at, value, mask=rows & columns)
            # Another thread may take up what one has left.
            tl.debug_barrier()
            first = False
            begin = end


@triton.jit
def joined_kernel(
    norms, parameter, out, partial, n, whole, splits, out_stride,
    KIND: tl.constexpr, MINUS_ONE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Of a tile that several programs have made: the sum, in a fixed order, and the entries."""
    PER_ROW: tl.constexpr = BLOCK_N // BLOCK
    tile = tl.program_id(1)
    block_m, block_n = tile_at(whole + tile, BLOCK_N // BLOCK_M)
    i = tl.program_id(0) // PER_ROW * BLOCK + tl.arange(0, BLOCK)[:, None]
    j = tl.program_id(0) % PER_ROW * BLOCK + tl.arange(0, BLOCK)[None, :]
    mask = (i < n - block_m * BLOCK_M) & (j < n - block_n * BLOCK_N)
    inner = tl.zeros((BLOCK, BLOCK), tl.float32)
    for split in range(splits):
        at = partial + (tile * splits + split).to(tl.int64) * (BLOCK_M * BLOCK_N)
        inner += tl.load(at + i * BLOCK_N + j, mask=mask, other=0.0)
    gamma = tl.load(parameter).to(tl.float32)
    alpha = gamma
    if KIND == RATIONAL_QUADRATIC:
        alpha = tl.load(parameter + 1).to(tl.float32)
    i += block_m * BLOCK_M
    j += block_n * BLOCK_N
    norm_i = tl.load(norms + i, mask=i < n, other=0.0)
    norm_j = tl.load(norms + j, mask=j < n, other=0.0)
    distance = squared_distance(norm_i, norm_j, inner)
    value = gram_entry(KIND, norm_i + norm_j, inner, distance, gamma, alpha, MINUS_ONE)
    tl.store(out + i.to(tl.int64) * out_stride + j, value, mask=mask)
    above = (block_m + 1) * BLOCK_M + 0 * i <= block_n * BLOCK_N  # as a block, or it is no mask
    tl.store(out + j.to(tl.int64) * out_stride + i, value, mask=mask & above)


@triton.jit
def mirror_diagonal_kernel(
    norms, out, n, out_stride,
    KIND: tl.constexpr, MINUS_ONE: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of a block of SIZE on the diagonal: below it what stands above, on it what is exact."""
    PER_BLOCK: tl.constexpr = SIZE // BLOCK
    here = tl.program_id(0)
    begin = tl.program_id(1) * SIZE
    i = begin + here // PER_BLOCK * BLOCK + tl.arange(0, BLOCK)
    j = begin + here % PER_BLOCK * BLOCK + tl.arange(0, BLOCK)
    inside = (i[:, None] <= j[None, :]) & (j < n)[None, :]
    at = out + i.to(tl.int64)[:, None] * out_stride + j[None, :]
    value = tl.load(at, mask=inside, other=0.0)
    on_it = inside & (i[:, None] == j[None, :])
    norm = tl.load(norms + i, mask=i < n, other=0.0)[:, None]
    exact = diagonal_entry(KIND, norm, value, MINUS_ONE)
    tl.store(at, exact, mask=on_it)
    mirror = out + j.to(tl.int64)[None, :] * out_stride + i[:, None]
    tl.store(mirror, value, mask=inside & (i[:, None] != j[None, :]))


def tiles_of(n: int, config: Config) -> int:
    """How many tiles touch the diagonal or lie above it."""
    reach, columns = config.n // config.m, triton.cdiv(n, config.n)
    rows_of_last = min(reach * columns, triton.cdiv(n, config.m))
    return reach * columns * (columns - 1) // 2 + rows_of_last


def shares(tiles: int, programs: int, steps: int) -> tuple[int, int, int]:
    """How many tiles are made whole; of the last round, how many by several programs, and by how many each."""
    shared = tiles % programs
    splits = min(programs // shared, steps) if shared else 1
    return (tiles - shared, shared, splits) if splits > 1 else (tiles, 0, 1)


def configs_for(operands: Operands, kind: int) -> Sequence[Config]:
    """Those whose epilogue of that kernel fits into registers."""
    able = CONFIGS[operands.rows.element_size()]
    return able if kind in (kinds.GAUSSIAN, kinds.LINEAR) else able[1:]


def tma_gram(
    f: Features, norms: Tensor, parameter: Tensor, out: Tensor, minus_one: bool = True
) -> None:
    """Fills ``out``, (n, n) float32, with the Gram matrix of a kernel in SMOOTH, and ``norms``, float32 [n]."""
    operands = operands_of(f, norms)

    def run(config: Config) -> None:
        _launch(f, operands, parameter, out, minus_one, config)

    candidates = configs_for(operands, f.kind)
    key = (
        str(operands.rows.dtype), operands.parts, f.kind, minus_one, size_class(f.n),
        size_class(f.d),
    )  # fmt: skip
    run(INTERPRETER_CONFIG if INTERPRETED else tuned("tma_gram", candidates, run, key, f.x, out))


def _launch(
    f: Features, operands: Operands, parameter: Tensor, out: Tensor, minus_one: bool, config: Config
) -> None:
    steps, programs = triton.cdiv(f.d, config.k), multiprocessors(f.x)
    whole, shared, splits = shares(tiles_of(f.n, config), programs, steps * len(operands.terms))
    partial = out.new_empty((shared * splits, config.m, config.n))
    work = whole + shared * splits
    left, right = numbers_of(operands.terms)
    a_rows, b_rows = (carried(operands.rows, block, config.k) for block in (config.m, config.n))
    with on_device(f.x):
        tma_gram_kernel[(min(work, programs),)](
            a_rows, b_rows, operands.norms, parameter, out, partial, f.n, steps,
            CHUNK // config.k, whole, work, splits, out.stride(0), KIND=f.kind,
            MINUS_ONE=minus_one, TERMS=len(operands.terms), LEFT=left, RIGHT=right,
            BLOCK_M=config.m, BLOCK_N=config.n, BLOCK_K=config.k, WIDTH=min(EPILOGUE, config.n),
            **config.options(),
        )  # fmt: skip
        block = min(32, config.m)
        if shared:
            joined_kernel[(config.m * config.n // block**2, shared)](
                operands.norms, parameter, out, partial, f.n, whole, splits, out.stride(0),
                KIND=f.kind, MINUS_ONE=minus_one, BLOCK_M=config.m, BLOCK_N=config.n, BLOCK=block,
            )  # fmt: skip
        mirror_diagonal_kernel[((config.n // block) ** 2, triton.cdiv(f.n, config.n))](
            operands.norms, out, f.n, out.stride(0), KIND=f.kind, MINUS_ONE=minus_one,
            SIZE=config.n, BLOCK=block,
        )  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""hsic with operands that the bulk copy engine carries, where its Gram matrices are kept; docs/heavy_product.md.

Forward: the matrices of :mod:`bido_ext.triton_kernels.tma_gram`, and the sums of the other form. Backward: weights
are written in the parts that the product takes. Streaming is the other form's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import triton
from torch import Tensor

from bido_ext.triton_kernels import hsic as plain
from bido_ext.triton_kernels.features import Features, features_of
from bido_ext.triton_kernels.gram_stack_tma import fill_grams
from bido_ext.triton_kernels.tma_operands import beginning_well, product_parts, transposed_of
from bido_ext.triton_kernels.tma_weighted_product import tma_weighted_product
from bido_ext.triton_kernels.weighted_product import gradient_dtype

#: Rows of a panel of weights are a multiple of this, a tile's height.
TILE_ROWS = 128

hsic = partial(plain.hsic, fill=fill_grams)


def hsic_backward(
    grad: Tensor, variables: Sequence[Tensor], parameters: Tensor, sums: Tensor, tiles: Tensor,
    kinds: Sequence[int], first: Sequence[int], second: Sequence[int], unbiased: bool, tile: int,
    wanted: Sequence[int],
) -> list[Tensor]:  # fmt: skip
    """One gradient per wanted variable, in its dtype."""
    n = variables[0].shape[0]
    features = {f.index: f for f in features_of(variables, kinds)}
    own = [i for i in wanted if i in features and tile >= n]
    others = [i for i in wanted if i not in own]
    found: dict[int, Tensor] = {}
    if others:
        rest = plain.hsic_backward(
            grad, variables, parameters, sums, tiles, kinds, first, second, unbiased, tile, others
        )
        found.update(zip(others, rest, strict=True))
    if own:
        grad, sums, tiles = grad.contiguous(), sums.contiguous(), tiles.contiguous()
        sources, extra = plain.sources_of(variables, kinds, parameters)
        grams = plain.with_extra(tiles[:, 0], extra, variables, parameters, kinds)
    # One after the other, so that only one copy is alive.
    for i in own:
        fill = partial(
            plain.fill_weights, grad=grad, sources=sources, parameters=parameters, sums=sums,
            pairs=(first, second), kinds=kinds, wanted=[i], unbiased=unbiased,
        )  # fmt: skip
        found[i] = _gradient(features[i], grams, fill).to(variables[i].dtype)
    return [found[i] for i in wanted]


def _gradient(f: Features, grams: Tensor, fill: partial[None]) -> Tensor:
    """Of one variable, from all Gram matrices (., n, n)."""
    parts, dtype = product_parts()
    columns = transposed_of(f)
    out = torch.empty(f.x.shape, dtype=gradient_dtype(f), device=f.x.device)
    rows = panel_rows(f.n, parts * dtype.itemsize)
    for begin in range(0, f.n, rows):
        panels = grams[:, begin : begin + rows]
        height = panels.shape[1]
        weights = beginning_well(parts * height, f.n, dtype, f.x.device).unflatten(
            0, (parts, height)
        )
        totals = torch.empty(height, dtype=torch.float32, device=f.x.device)
        fill(weights, panels=panels, row_begin=begin, parts=parts, totals=totals)
        tma_weighted_product(weights, totals, columns, f, out, begin)
    return out


def panel_rows(n: int, entry_bytes: int) -> int:
    """Of equal panels of weights that take no more than those of the other form, which are float32."""
    most = plain.WEIGHT_ROWS * 4 // entry_bytes // TILE_ROWS * TILE_ROWS
    each = triton.cdiv(n, triton.cdiv(n, most))
    return triton.cdiv(each, TILE_ROWS) * TILE_ROWS

# SPDX-License-Identifier: Apache-2.0
"""hsic and its backward in Triton; see :mod:`bido_ext.ops.hsic`.

Dense (tile >= n): the Gram matrices of the features are made whole and kept. Streaming: panels of ``tile``
rows are made, used and forgotten; in the forward only their part on or right of the diagonal, in the
backward their whole width. Sums are in float64 and in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from bido_ext.reference.kernel_entries import GRAM, LABELS, scalar
from bido_ext.triton_kernels.features import Features, features_of
from bido_ext.triton_kernels.gram_panel import gram_panel
from bido_ext.triton_kernels.gram_stack import Fill, fill_grams
from bido_ext.triton_kernels.hsic_sums import (
    column_sums_kernel,
    hsic_values_kernel,
    pair_sums_kernel,
)
from bido_ext.triton_kernels.hsic_weights import hsic_weights_kernel
from bido_ext.triton_kernels.launch import on_device
from bido_ext.triton_kernels.norms import squared_norms
from bido_ext.triton_kernels.table import table
from bido_ext.triton_kernels.weighted_product import gradient_dtype, multiply_panel

ROWS, COLUMNS = 8, 128  # of a block in the kernels that only add up


@dataclass(frozen=True)
class Sources:
    """Where the entries of each variable's Gram matrix come from.

    Attributes:
        slots: Place of each variable in a stack of matrices or panels; -1 for the labels.
        labels: The labels (n,), or a dummy.
        label_scale: What the indicator of the same class is multiplied with; of a dummy without labels.
        has_labels: Whether there are labels that have no matrix.
    """

    slots: tuple[int, ...]
    labels: Tensor
    label_scale: Tensor
    has_labels: bool


def sources_of(
    variables: Sequence[Tensor], kinds: Sequence[int], parameters: Tensor
) -> tuple[Sources, list[int]]:
    """The sources, and the variables that need a matrix of their own after those of the features: Gram
    matrices as given, and labels beyond the first."""
    label_index = next((i for i, kind in enumerate(kinds) if kind == LABELS), -1)
    features = [i for i, kind in enumerate(kinds) if kind not in (LABELS, GRAM)]
    extra = [i for i in range(len(kinds)) if i not in features and i != label_index]
    place = {i: slot for slot, i in enumerate([*features, *extra])}
    slots = tuple(place.get(i, -1) for i in range(len(kinds)))
    labels = variables[label_index].contiguous() if label_index >= 0 else variables[0]
    scale = scalar(parameters[max(label_index, 0)])
    return Sources(slots, labels, scale, label_index >= 0), extra


def with_extra(
    grams: Tensor, extra: Sequence[int], variables: Sequence[Tensor], parameters: Tensor,
    kinds: Sequence[int],
) -> Tensor:  # fmt: skip
    if not extra:
        return grams
    matrices = [
        variables[i].float()
        if kinds[i] == GRAM
        else (variables[i][:, None] == variables[i][None, :]).float()
        * scalar(parameters[i]).float()
        for i in extra
    ]
    return torch.cat([grams, torch.stack(matrices)])


class _Sums:
    """Row sums of each matrix and product sums of each pair, filled panel by panel."""

    def __init__(
        self, n: int, sources: Sources, parameters: Tensor, kinds: Sequence[int],
        pairs: tuple[Sequence[int], ...], features: Sequence[Features], unbiased: bool,
        panel_rows: int,
    ) -> None:  # fmt: skip
        self.n, self.sources, self.parameters, self.unbiased = n, sources, parameters, unbiased
        self.pair_count = len(pairs[0])
        marks = {f.index: (f.slot, *f.spread) for f in features}
        rows = [(slot, kinds[i], *marks.get(i, (0, 0, 0))) for i, slot in enumerate(sources.slots)]
        self.variables = table(rows, parameters.device)
        self.pairs = table(list(zip(*pairs, strict=True)), parameters.device)
        self.blocks = triton.cdiv(n, panel_rows) * triton.cdiv(panel_rows, ROWS)
        self.blocks_per_panel = triton.cdiv(panel_rows, ROWS)
        self.whole = panel_rows >= n  # then every sum is written once; panels add to what is there
        make = parameters.new_empty if self.whole else parameters.new_zeros
        self.sums = make((len(sources.slots), n))
        self.partial = make((self.pair_count, self.blocks))

    def add(self, panels: Tensor, row_begin: int, column_begin: int, panel: int) -> None:
        """``panels``: (slots, rows, columns)."""
        s, (_, rows, columns) = self.sources, panels.shape
        count = len(s.slots)
        common = (
            panels,
            panels.stride(0),
            panels.stride(1),
            s.labels,
            s.label_scale,
            self.variables,
        )
        with on_device(panels):
            pair_sums_kernel[(triton.cdiv(rows, ROWS), self.pair_count + count)](
                *common, self.pairs, self.pair_count, self.partial, self.blocks,
                panel * self.blocks_per_panel, self.sums, self.n, row_begin, rows, column_begin, columns,
                HAS_LABELS=s.has_labels, UNBIASED=self.unbiased, WHOLE=self.whole, BLOCK_M=ROWS,
                BLOCK_N=COLUMNS,
            )  # fmt: skip
            beyond = column_begin + columns - (row_begin + rows)
            if column_begin == row_begin and beyond > 0:
                column_sums_kernel[(triton.cdiv(beyond, COLUMNS), count)](
                    *common, self.sums, self.n, row_begin, rows, column_begin, columns,
                    HAS_LABELS=s.has_labels, BLOCK_M=ROWS, BLOCK_N=COLUMNS,
                )  # fmt: skip

    def values(self, norms: Tensor, spreads: Tensor) -> Tensor:
        """float64 [pairs]; NaN, there and in the sums, where float32 does not resolve a variable.

        Args:
            norms: Squared norms of the centered rows, float32 [features, n].
        """
        values = self.parameters.new_empty((self.pair_count,))
        with on_device(values):
            hsic_values_kernel[(self.pair_count + len(self.sources.slots),)](
                self.sums, self.partial, values, self.variables, self.pairs, self.pair_count,
                self.parameters, self.parameters.stride(0), norms, spreads, self.n, self.blocks,
                UNBIASED=self.unbiased, BLOCK=256,
            )  # fmt: skip
        return values


def hsic(
    variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int], first: Sequence[int],
    second: Sequence[int], unbiased: bool, tile: int, kept_tiles: int, fill: Fill = fill_grams,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Values, row sums, and the Gram matrices of the features (features, 1, n, n), none when streaming.

    Args:
        fill: Makes the matrices that are kept.
    """
    n = variables[0].shape[0]
    features = features_of(variables, kinds)
    sources, extra = sources_of(variables, kinds, parameters)
    _check_tiles(n, tile, kept_tiles, extra)
    rows = min(tile, n)
    sums = _Sums(n, sources, parameters, kinds, (first, second), features, unbiased, rows)
    spreads = features[0].spreads if features else sums.pairs
    if tile >= n:
        grams = torch.empty((len(features), n, n), dtype=torch.float32, device=parameters.device)
        norms = fill(features, parameters, grams)
        sums.add(with_extra(grams, extra, variables, parameters, kinds), 0, 0, 0)
        return sums.values(norms, spreads), sums.sums, grams[:, None]
    norms = torch.empty((len(features), n), dtype=torch.float32, device=parameters.device)
    for f in features:
        squared_norms(f, norms[f.slot])
    buffer = torch.empty(len(features) * rows * n, dtype=torch.float32, device=parameters.device)
    for panel, begin in enumerate(range(0, n, rows)):
        height = min(rows, n - begin)
        panels = buffer[: len(features) * height * (n - begin)].view(
            len(features), height, n - begin
        )
        for f in features:
            gram_panel(f, norms[f.slot], parameters[f.index], panels[f.slot], begin, begin)
        sums.add(panels, begin, begin, panel)
    kept = buffer.new_empty((len(features), 0, tile, tile))
    return sums.values(norms, spreads), sums.sums, kept


def _check_tiles(n: int, tile: int, kept_tiles: int, extra: Sequence[int]) -> None:
    if tile < n and kept_tiles != 0:
        raise ValueError(
            f"hsic: on this device either all is kept (tile >= n = {n}) or nothing is (kept_tiles = 0); "
            f"got tile = {tile}, kept_tiles = {kept_tiles}."
        )
    if tile < n and extra:
        raise ValueError("hsic: Gram matrices and second labels have no streaming form.")


def hsic_backward(
    grad: Tensor, variables: Sequence[Tensor], parameters: Tensor, sums: Tensor, tiles: Tensor,
    kinds: Sequence[int], first: Sequence[int], second: Sequence[int], unbiased: bool, tile: int,
    wanted: Sequence[int],
) -> list[Tensor]:  # fmt: skip
    """One gradient per wanted variable, in its dtype."""
    # The kernels read them entry by entry, and autograd hands on views of any strides.
    grad, sums, tiles = grad.contiguous(), sums.contiguous(), tiles.contiguous()
    n = variables[0].shape[0]
    features = features_of(variables, kinds)
    by_index = {f.index: f for f in features}
    sources, extra = sources_of(variables, kinds, parameters)
    dense = tile >= n
    outs = {
        i: torch.empty(
            variables[i].shape,
            dtype=gradient_dtype(by_index[i]) if i in by_index else torch.float32,
            device=parameters.device,
        )
        for i in wanted
    }
    # The weights go by panels even where the Gram matrices are kept: one more n x n would be needed.
    rows = min(n, WEIGHT_ROWS) if dense else tile
    if dense:
        panels = with_extra(tiles[:, 0], extra, variables, parameters, kinds)
    else:
        norms = {
            f.index: squared_norms(f, sums.new_empty(n, dtype=torch.float32)) for f in features
        }
        panels = torch.empty((len(features), rows, n), dtype=torch.float32, device=sums.device)
    # All at once where the weights are as small as what is kept; else one after the other.
    batches = [list(wanted)] if dense and n <= GROUPED_UP_TO else [[i] for i in wanted]
    for begin in range(0, n, rows):
        height = min(rows, n - begin)
        here = panels[:, begin : begin + height] if dense else panels[:, :height]
        if not dense:
            for f in features:
                gram_panel(f, norms[f.index], parameters[f.index], here[f.slot], begin)
        for batch in batches:
            weights = sums.new_empty((len(batch), height, n), dtype=torch.float32)
            fill_weights(
                weights, grad, here, sources, parameters, sums, (first, second), kinds, batch, unbiased,
                begin,
            )  # fmt: skip
            _write(weights, batch, by_index, outs, begin)
    return [outs[i].to(variables[i].dtype) for i in wanted]


#: Up to this n the weights of all wanted variables are made in one launch, and multiplied in one.
GROUPED_UP_TO = 1024
#: Rows of the weights that exist at a time (csrc/common/planner.h has the same number).
WEIGHT_ROWS = 4096


def fill_weights(
    weights: Tensor, grad: Tensor, panels: Tensor, sources: Sources, parameters: Tensor, sums: Tensor,
    pairs: tuple[Sequence[int], ...], kinds: Sequence[int], wanted: Sequence[int], unbiased: bool,
    row_begin: int, parts: int = 1, totals: Tensor | None = None,
) -> None:  # fmt: skip
    """Rows of A for each wanted variable.

    Args:
        weights: To be filled, (parts wanted, rows, n), contiguous rows; every part begins with what those before
            it have left. float32 in one part beside ``totals`` is TF32.
        totals: To be filled with the row sums of what the weights hold, float32 (wanted, rows).
    """
    n, rows = sums.shape[1], panels.shape[1]
    of_wanted, partners = _partners(sources, pairs, kinds, wanted)
    with on_device(weights):
        hsic_weights_kernel[(triton.cdiv(rows, ROWS), len(wanted))](
            grad, panels, panels.stride(0), panels.stride(1), sources.labels, sources.label_scale,
            parameters, parameters.stride(0), sums, weights, weights.stride(1),
            len(wanted) * weights.stride(0), weights if totals is None else totals,
            table(of_wanted, sums.device), table(partners, sums.device), n, row_begin, rows,
            HAS_LABELS=sources.has_labels, UNBIASED=unbiased, PARTS=parts,
            TOTALS=totals is not None, BLOCK_M=ROWS,
            BLOCK_N=COLUMNS if parts == 1 else COLUMNS // 2,  # or sm_100 spills
        )  # fmt: skip


def _partners(
    sources: Sources, pairs: tuple[Sequence[int], ...], kinds: Sequence[int], wanted: Sequence[int]
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The tables of :mod:`bido_ext.triton_kernels.hsic_weights`."""
    of_wanted: list[tuple[int, ...]] = []
    partners: list[tuple[int, ...]] = []
    for own in wanted:
        begin = len(partners)
        for p, (a, b) in enumerate(zip(*pairs, strict=True)):
            if own in (a, b):
                partner = b if a == own else a
                partners.append((p, partner, sources.slots[partner], 2 if a == b else 1))
        of_wanted.append((own, sources.slots[own], kinds[own], begin, len(partners)))
    return of_wanted, partners or [(0, 0, 0, 0)]


def _write(
    weights: Tensor, batch: Sequence[int], by_index: dict[int, Features], outs: dict[int, Tensor],
    row_begin: int,
) -> None:  # fmt: skip
    """Rows row_begin.. of the gradients from their weights."""
    places = [k for k, i in enumerate(batch) if i in by_index]
    if places:
        # Not weights[places]: a list of places is copied to the device, and the host waits for it.
        own = weights if len(places) == len(batch) else torch.stack([weights[k] for k in places])
        chosen = [batch[k] for k in places]
        multiply_panel(own, [by_index[i] for i in chosen], [outs[i] for i in chosen], row_begin)
    for k, i in enumerate(batch):
        if i not in by_index:  # the gradient of a Gram matrix is G itself
            outs[i][row_begin : row_begin + weights.shape[1]] = weights[k]

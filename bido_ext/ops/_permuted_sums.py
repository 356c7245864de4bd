# SPDX-License-Identifier: Apache-2.0
"""T(p) = tr(HKH P HLH P') for many permutations of the samples, in the cheapest of five forms.

factors: both matrices have thin factors A (n, r), B (n, s): |A' B[p]|^2, n r s operations a permutation
classes: L is of labels: panels of the centered K pass once over the permuted labels, no gathers
dense: the centered L is kept, panels of the centered K pass over it: n^2 / 2 gathers
half: L does not fit but K has a thin factor (or the other way round): panels of L pass over the permuted
    factor, n^2 r operations, many permutations a pass
remade: neither; the rows of L that a panel of K meets are made again for each permutation

The first permutation must be the identity: its T is the observed one, summed in the same way as the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bido_ext.ops._centered_gram import PANEL, CenteredGram
from bido_ext.ops.permuted_products import (
    permuted_class_sums,
    permuted_factor_products,
    permuted_products,
)
from bido_ext.reference.gram_stack import LABELS

#: Below this n the dense form takes no time.
FACTORS_FROM = 128
#: Measured nanoseconds of a gathered product (float32, float64), of an entry that is masked by classes, and of
#: a product of factors.
GATHERED_NS, CLASSES_NS, FACTOR_NS = {4: 0.4, 8: 0.75}, 0.15, 0.05
#: Bytes of a panel of K that passes over a kept L.
PANEL_BYTES = 1 << 28


@dataclass(frozen=True)
class PermutedSums:
    """The sums of each permutation.

    Attributes:
        products: [B] float64, T(p); the first is the identity's, in the form of the others.
        observed: T of the identity without rounded entries.
        diagonals: [B] float64, sum_i (HKH)_ii (HLH)_p(i)p(i).
        norms: Squared Frobenius norms of HKH and HLH.
        traces: Traces of HKH and HLH.
        diagonal_norms: Sums of the squared diagonals.
        round_off: What T(p) may be off, beside the product of the norms.
        form: In words.
    """

    products: Tensor
    observed: float
    diagonals: Tensor
    norms: tuple[float, float]
    traces: tuple[float, float]
    diagonal_norms: tuple[float, float]
    round_off: float
    form: str


def permuted_sums(
    K: CenteredGram, L: CenteredGram, permutations: Tensor, dtype: torch.dtype, budget: int
) -> PermutedSums:
    """The sums of K and L for permutations (B, n) int32.

    Args:
        dtype: Of the matrices in the dense form, float32 or float64; the sums are in float64.
        budget: Bytes that the matrices may take.
    """
    n, element = K.n, dtype.itemsize
    fits = n * n * element + n * PANEL * 8 * 3 <= budget
    observed = 0.0
    A, B = _factors(K, L, element, fits, budget)
    if A is not None and B is not None:
        products = permuted_factor_products(A, B, permutations)
        norms = float((A.T @ A).square().sum()), float((B.T @ B).square().sum())
        form = f"factors of rank {A.shape[1]} and {B.shape[1]}"
    elif L.kind == LABELS:
        observed, norms = _exact(K, L)
        products = _classes(K, L, permutations, dtype, budget)
        form = f"classes, {str(dtype).removeprefix('torch.')}"
    elif fits:
        observed, norms = _exact(K, L)
        products = _dense(K, L, permutations, dtype, budget)
        form = f"dense, {str(dtype).removeprefix('torch.')}"
    elif A is not None or B is not None:
        products, norms = _half(K, L, A, B, permutations, budget)
        form = "streaming, one side a factor"
    else:
        products, norms = _remade(K, L, permutations)
        form = "streaming, both sides made again"
    a = K.diagonal() if A is None else A.square().sum(1)
    b = L.diagonal() if B is None else B.square().sum(1)
    rounded = form.endswith("float32")
    if not rounded:
        observed = float(products[0])
    return PermutedSums(
        products, observed, _diagonals(a, b, permutations), norms, (float(a.sum()), float(b.sum())),
        (float(a.square().sum()), float(b.square().sum())), 1e-7 if rounded else 1e-12, form,
    )  # fmt: skip


def _factors(
    K: CenteredGram, L: CenteredGram, element: int, fits: bool, budget: int
) -> tuple[Tensor | None, Tensor | None]:
    """Thin factors where they are cheaper than the dense form; one alone only where that does not fit."""
    n = K.n
    if n < FACTORS_FROM:
        return None, None
    # r s up to this costs less than the dense form; beyond what fits, whatever the budget holds.
    area = n / 2 * GATHERED_NS[element] / FACTOR_NS
    widest = min(n // 4, budget // (8 * 4 * n))
    if L.kind == LABELS:  # cheap to find, and exact; without K's it is of no use
        area *= CLASSES_NS / GATHERED_NS[element]
        B = L.factor(min(widest, int(area**0.5)))
        A = None if B is None else K.factor(min(widest, int(area / B.shape[1])))
        return (None, None) if A is None else (A, B)
    if not fits:
        return K.factor(widest), L.factor(widest)
    A = K.factor(min(widest, int(area**0.5) * 2))
    B = None if A is None else L.factor(min(widest, int(area / A.shape[1])))
    return (None, None) if B is None else (A, B)


def _exact(K: CenteredGram, L: CenteredGram) -> tuple[float, tuple[float, float]]:
    """T of the identity and the squared norms, in float64."""
    sums = [0.0, 0.0, 0.0]
    for begin in range(0, K.n, PANEL):
        rows = slice(begin, begin + PANEL)
        own, other = K.panel(rows), L.panel(rows)
        for at, product in enumerate((own * other, own.square_(), other.square_())):
            sums[at] += float(product.sum())
    return sums[0], (sums[1], sums[2])


def _dense(
    K: CenteredGram, L: CenteredGram, permutations: Tensor, dtype: torch.dtype, budget: int
) -> Tensor:
    kept = L.matrix(dtype)
    total = permutations.new_zeros((len(permutations),), dtype=torch.float64)
    for begin, panel in _panels(K, dtype, budget):
        total += permuted_products(panel, begin, kept, permutations)
    return total


def _classes(
    K: CenteredGram, L: CenteredGram, permutations: Tensor, dtype: torch.dtype, budget: int
) -> Tensor:
    """The rows of HKH sum to zero, so those of L need no centering."""
    labels = torch.empty_like(permutations)
    for some, own in zip(labels.split(64), permutations.split(64), strict=True):
        some.copy_(L.codes[own.long()])
    total = permutations.new_zeros((len(permutations),), dtype=torch.float64)
    for begin, panel in _panels(K, dtype, budget):
        total += permuted_class_sums(panel, begin, labels)
    return total * L.scale


def _panels(K: CenteredGram, dtype: torch.dtype, budget: int) -> Iterator[tuple[int, Tensor]]:
    """Panels of rows of HKH, and where they begin."""
    rows = min(PANEL_BYTES, budget // 4) // (K.n * dtype.itemsize)
    if rows >= K.n:
        yield 0, K.matrix(dtype)
        return
    rows = max(PANEL, rows)
    for begin in range(0, K.n, rows):
        end = min(K.n, begin + rows)
        panel = K.means.new_empty((end - begin, K.n), dtype=dtype)
        for first in range(begin, end, PANEL):  # few rows are in float64 at a time
            last = min(end, first + PANEL)
            panel[first - begin : last - begin] = K.panel(slice(first, last))
        yield begin, panel


def _half(
    K: CenteredGram, L: CenteredGram, A: Tensor | None, B: Tensor | None, permutations: Tensor,
    budget: int,
) -> tuple[Tensor, tuple[float, float]]:  # fmt: skip
    """tr(HKH (P B)(P B)') of the factor B of L, or the same with the sides changed and p inverted."""
    whole, factor = (K, B) if B is not None else (L, A)
    assert factor is not None
    n, r = factor.shape
    at_once = max(1, budget // (16 * n * r))
    total = permutations.new_empty((len(permutations),), dtype=torch.float64)
    norm = 0.0
    for first in range(0, len(permutations), at_once):
        some = permutations[first : first + at_once].long()
        if whole is L:
            some = some.argsort(1)
        permuted = factor[some.T].reshape(n, -1)  # (n, permutations r)
        sums = permuted.new_zeros((len(some),))
        for begin in range(0, n, PANEL):
            panel = whole.panel(slice(begin, begin + PANEL))
            met = (panel @ permuted).mul_(permuted[begin : begin + PANEL])
            sums += met.view(len(panel), len(some), r).sum((0, 2))
            norm += _squared_norm(panel) if first == 0 else 0.0
        total[first : first + at_once] = sums
    own = float((factor.T @ factor).square().sum())
    return total, (norm, own) if whole is K else (own, norm)


def _remade(
    K: CenteredGram, L: CenteredGram, permutations: Tensor
) -> tuple[Tensor, tuple[float, float]]:
    total = permutations.new_zeros((len(permutations),), dtype=torch.float64)
    norms = [0.0, 0.0]
    for begin in range(0, K.n, PANEL):
        rows = slice(begin, begin + PANEL)
        panel = K.panel(rows)
        norms[0] += _squared_norm(panel)
        norms[1] += _squared_norm(L.panel(rows))
        for b, p in enumerate(permutations.long().unbind()):
            total[b] += (panel * L.panel(p[rows])[:, p]).sum()
    return total, (norms[0], norms[1])


def _squared_norm(matrix: Tensor) -> float:
    blocks = matrix.split(PANEL)
    return float(sum(block.double().square().sum() for block in blocks))


def _diagonals(a: Tensor, b: Tensor, permutations: Tensor) -> Tensor:
    """sum_i a_i b_p(i) for each permutation."""
    parts = [(b[p.long()] * a).sum(1) for p in permutations.split(64)]
    return torch.cat(parts)

# SPDX-License-Identifier: Apache-2.0
"""CKA of pairs of a group: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), a composition of the hsic op.

variables: m times [n, d_v] or labels [n]  ->  values: [pairs] float64

With the unbiased estimator HSIC(K, K) is |U(K)|^2 / (n (n-3)), U(K) the U-centered matrix (Szekely and
Rizzo 2014): it is never negative, and 0 where nothing is left of K. What is computed in its place then is
rounding, of either sign; ``has_differences`` and ``self_term_is_known`` tell the two apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from bido_ext._float64 import widened
from bido_ext.ops._plan_arguments import WorkspaceError
from bido_ext.ops._validate import check_choice, readable
from bido_ext.ops._why import SMALLEST_ENTRY
from bido_ext.ops.bandwidth import Sigma
from bido_ext.ops.group import Group, Pairs
from bido_ext.ops.hsic import ESTIMATORS, hsic_of_pairs
from bido_ext.ops.kernels import Kernel
from bido_ext.ops.measure import Measure, guarded_sqrt, measure_pair
from bido_ext.ops.plan import choose_regime
from bido_ext.ops.workspace_of_rerun import bounded, fits_in_float64, tile_of_rerun
from bido_ext.reference.gram_stack import (
    GRAM,
    LABELS,
    accumulation_dtype,
    gram_up_to_centering,
    group_dtype,
)

#: A centered Gram matrix below so many units of rounding of the matrix itself is taken for rounding,
GRAM_UNITS = 16
#: and so are differences between samples below so many of the features.
FEATURE_UNITS = 4
ROWS_TO_LOOK_AT = 8
#: HSIC with itself of which float64 keeps all digits.
SMALLEST_SQUARE = 1e-280
UNDEFINED = (
    "unbiased cka is undefined where {} has nothing to compare: constant features, labels that are all equal "
    "or all different, or a bandwidth so small that all samples are equally far from each other."
)


def cka(
    x: Tensor,
    y: Tensor,
    kernel_x: Kernel | None = None,
    kernel_y: Kernel | None = None,
    num_classes: int | None = None,
    workspace_bytes: int | None = None,
    estimator: str = "biased",
    sigma: Sigma | None = None,
) -> Tensor:
    """Centered kernel alignment (CKA) of x and y: HSIC divided by its norms, so that layers compare.

    It is HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)) (Cortes et al. 2012; Kornblith et al. 2019).

    Args:
        x: Features (n, d), float64, float32, bfloat16 or float16.
        y: Features (n, e), or integer labels (n,), which are never expanded to one-hot.
        kernel_x: Kernel of x. Default: Gaussian(sigma=5.0).
        kernel_y: Kernel of y. Default: Linear() for integer labels, Gaussian(sigma=5.0) for float y. If a
            float y holds one-hot, soft or mixed labels, give kernel_y=Linear().
        num_classes: Number of classes of integer labels. Labels are checked against it; a Gaussian on
            labels needs it.
        workspace_bytes: Largest memory in bytes beyond inputs and gradients, as for :func:`bido_ext.hsic`.
        estimator: Estimator of each HSIC. "biased": tr(HKH HLH) / (n-1)^2 (Gretton et al. 2005), n >= 2. It
            makes CKA near 1 for few samples of many features, whatever they are. "unbiased": Song et al.
            2012, equation 5, n >= 4 (CKA: Nguyen et al. 2021, equation 3).
        sigma: Short for kernel_x=Gaussian(sigma) and, if y is float, kernel_y=Gaussian(sigma).

    Returns:
        A 0-d tensor: float64 for float64 features, else float32. Differentiable once.
        Biased: in [0, 1]. If a variable is constant, value and gradient are 0.
        Unbiased: in [-1, 1], about 0 for independent variables. It is NaN, without a gradient, if x or y
        has nothing to compare: constant features, labels that are all equal or all different, or samples
        that a small bandwidth makes equally far from each other. On a GPU and in compiled graphs it is also NaN
        if a far sample leaves float32 too few digits of the others; pass float64 then.

    Raises:
        TypeError: An argument is not a tensor of an allowed dtype.
        ValueError: Shapes, devices or labels do not fit, or n is too small. On the CPU also: the features
            hold NaN or Inf, or even float64 cannot resolve the value.
        WorkspaceError: Not even tiles fit into workspace_bytes.

    Example:
        >>> bx.cka(z1, z2, bx.Linear(), bx.Linear(), estimator="unbiased")
    """
    measure = CkaMeasure(check_choice(estimator, "estimator", ESTIMATORS) == "unbiased")
    return measure_pair(
        measure, x, y, kernel_x, kernel_y, num_classes, workspace_bytes, sigma=sigma
    )


class CkaMeasure(Measure):
    """CKA, biased or unbiased: the pairs of a group, and every variable with itself, from one pass."""

    name = "cka"
    streams = True

    def __init__(self, unbiased: bool = False) -> None:
        self.unbiased = unbiased
        self.minimum_rows = 4 if unbiased else 2

    @property
    def exact(self) -> bool:
        """Of a matrix that is nearly that of one far sample, division by its norm leaves little gradient."""
        return True

    def values(self, group: Group, pairs: Pairs, workspace_bytes: int | None = None) -> Tensor:
        regime = choose_regime(group, self.name, workspace_bytes)
        with bounded(workspace_bytes):
            if self.unbiased:
                return _unbiased_of_pairs(group, pairs, regime.tile, regime.kept_tiles)
            return cka_of_pairs(
                pairs,
                lambda every: hsic_of_pairs(group, every, False, regime.tile, regime.kept_tiles),
                group,
            )

    def check(self, value: Tensor, narrow: Tensor, group: Group) -> None:
        features = [v for v in group.variables if v.is_floating_point()]
        if (
            self.unbiased
            and bool(torch.isnan(value))
            and all(bool(x.isfinite().all()) for x in features)
        ):
            return  # undefined
        super().check(value, narrow, group)

    def why_not_finite(self, group: Group, names: Sequence[str]) -> str:
        features = [v for v in group.variables if v.is_floating_point()]
        if self.unbiased and all(bool(v.isfinite().all()) for v in features):
            return UNDEFINED.format(" or ".join(names))
        return super().why_not_finite(group, names)

    def why_not_finite_over_ranks(self, names: Sequence[str]) -> str:
        if self.unbiased:
            return UNDEFINED.format(" or ".join(names))
        return super().why_not_finite_over_ranks(names)


def cka_of_pairs(
    pairs: Pairs, hsic_of: Callable[[Pairs], Tensor], group: Group | None = None
) -> Tensor:
    """CKA of each pair from one call of ``hsic_of``, for the pairs and every variable with itself.

    Args:
        group: Of the variables, to tell a constant one, with which CKA is 0, from one whose HSIC with itself is
            too small a number; NaN then, where looking is free. NaN also where it is too large a number.
    """
    own = sorted({*pairs.first, *pairs.second})
    products = hsic_of(Pairs([*pairs.first, *own], [*pairs.second, *own]))
    count = len(pairs.first)
    norms = dict(zip(own, guarded_sqrt(products[count:]).unbind(), strict=True))
    if group is not None and readable(products):
        for v, square in zip(own, products[count:].tolist(), strict=True):
            if square < SMALLEST_SQUARE and _underflows(group, v):
                norms[v] = norms[v] + torch.nan
    size = torch.stack([norms[a] * norms[b] for a, b in zip(*pairs, strict=True)])
    # Of a constant variable what is left is round-off, of the gradient too. 0 times infinity is NaN.
    known = (size > 0) & (size < torch.inf)
    return torch.where(known, products[:count] / torch.where(known, size, 1.0), 0 * size)


def _underflows(group: Group, v: int) -> bool:
    """Whether samples of features differ, and yet the squares of their Gram matrix are no numbers."""
    x, kind = group.variables[v].detach(), group.kinds[v]
    if kind >= LABELS or not bool((x != x[:1]).any()):
        return False
    E = gram_up_to_centering(x, group.parameters[v], kind, torch.float64)
    return float(E.abs().amax()) < SMALLEST_ENTRY


def _unbiased_of_pairs(group: Group, pairs: Pairs, tile: int, kept_tiles: int) -> Tensor:
    def of(variables: list[Tensor], tile: int, kept_tiles: int) -> Tensor:
        def hsic_of(every: Pairs) -> tuple[Tensor, Tensor]:
            return torch.ops.bido_ext.hsic(  # type: ignore[no-any-return]
                variables, group.parameters, group.kinds, *every, True, tile, kept_tiles
            )[:2]  # fmt: skip

        dtype = group_dtype(variables, group.kinds)
        return unbiased_cka_of_pairs(pairs, hsic_of, group.n, dtype, differences_of(group))

    values = of(group.variables, tile, kept_tiles)
    if not readable(values) or not bool(values.isnan().any()):
        return values
    # Undefined, or a far sample left float32 too few digits of the others.
    tile = tile_of_rerun(group.n, tile)
    wide = widened(group.variables, group.kinds, exact=True)
    with suppress(WorkspaceError):
        if wide is not None and fits_in_float64(group.variables, group.kinds, tile):
            return of(wide, tile, 0 if tile < group.n else kept_tiles)
    return values


def differences_of(group: Group) -> Callable[[int], Tensor]:
    """:func:`has_differences` of a variable of the group."""
    return lambda v: has_differences(group.variables[v], group.kinds[v])


def unbiased_cka_of_pairs(
    pairs: Pairs,
    hsic_of: Callable[[Pairs], tuple[Tensor, Tensor]],
    n: int,
    dtype: torch.dtype,
    differ: Callable[[int], Tensor],
) -> Tensor:
    """Unbiased CKA of each pair, NaN where it is undefined, from one call of ``hsic_of``.

    Args:
        hsic_of: Unbiased HSIC of pairs, and the row sums [m, n] of every Gram matrix without its diagonal.
        n: Samples.
        dtype: Of the Gram matrices.
        differ: Whether the samples of a variable differ by more than rounding, asked after ``hsic_of``.
    """
    own = sorted({*pairs.first, *pairs.second})
    count, place = len(pairs.first), {v: i for i, v in enumerate(own)}
    values, sums = hsic_of(Pairs([*pairs.first, *own], [*pairs.second, *own]))
    squares = squares_of_gram(values[count:].detach(), torch.stack([sums[v] for v in own]))
    known = self_term_is_known(values[count:].detach(), squares, n, dtype)
    known &= torch.stack([differ(v) for v in own])
    norms = torch.where(known, values[count:], 1.0).sqrt().unbind()
    both = known.unbind()
    size = torch.stack([norms[place[a]] * norms[place[b]] for a, b in zip(*pairs, strict=True)])
    defined = torch.stack([both[place[a]] & both[place[b]] for a, b in zip(*pairs, strict=True)])
    return torch.where(defined, values[:count] / size, torch.nan)


def squares_of_gram(own: Tensor, sums: Tensor) -> Tensor:
    """Sum of the squares off the diagonal of each Gram matrix, from its unbiased HSIC with itself [m] and
    its row sums without the diagonal [m, n]; as :mod:`bido_ext.ops.hsic` returns them."""
    n = sums.shape[1]
    totals = sums.sum(1)
    return own * (n * (n - 3)) - totals**2 / ((n - 1) * (n - 2)) + 2 * (sums**2).sum(1) / (n - 2)


def has_differences(x: Tensor, kind: int) -> Tensor:
    """Whether the samples of a variable of a group differ by more than rounding; a 0-d bool.

    Centered constant features are rounding, and nothing in their Gram matrix shows it.
    """
    x = x.detach()
    if kind in (LABELS, GRAM):
        return torch.ones((), dtype=torch.bool, device=x.device)
    # Some rows settle it where looking is free; reading all of a wide layer takes as long as its Gram matrix.
    if readable(x):
        some = _differ(x[:: max(1, len(x) // ROWS_TO_LOOK_AT)])
        if bool(some):
            return some
    return _differ(x)


def _differ(x: Tensor) -> Tensor:
    x = x.to(accumulation_dtype(x.dtype))
    # In units of the largest, or the squares of the norms may be no numbers of this dtype.
    largest = x.abs().amax()
    x = x / torch.where(largest > 0, largest, 1.0)
    return more_than_rounding(
        torch.linalg.vector_norm(x - x[:1]), torch.linalg.vector_norm(x), x.dtype
    )


def more_than_rounding(spread: Tensor, size: Tensor, dtype: torch.dtype) -> Tensor:
    """Whether samples differ, from the norms of their differences to one of them and of themselves."""
    return spread > FEATURE_UNITS * torch.finfo(accumulation_dtype(dtype)).eps * size


def self_term_is_known(own: Tensor, squares: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """Whether each unbiased HSIC of a variable with itself is more than rounding; bool [m].

    Args:
        own: The values, float64 [m].
        squares: Sum of the squares off the diagonal of each Gram matrix, [m].
        dtype: Of the Gram matrices. Their sums are in float64.
    """
    units = (GRAM_UNITS * torch.finfo(dtype).eps) ** 2
    # The terms of own are as large as squares, and cancel.
    floor = max(units, GRAM_UNITS * torch.finfo(torch.float64).eps)
    return own * (n * (n - 3)) > floor * squares

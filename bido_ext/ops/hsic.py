# SPDX-License-Identifier: Apache-2.0
"""HSIC of pairs of a group of variables, straight from their features.

variables: m times [n, d_v] or labels [n]  ->  values: [pairs] float64; row sums of each Gram matrix up to
centering, [m, n] float64, and the kept tiles, for the backward
    value = tr(HKH HLH) / (n-1)^2,   d value / dK = (L - (l_i + l_j)/n + 1'L1/n^2) / (n-1)^2
    grad_x = (A - diag(A 1)) x,      A = 4 gamma (d value / dK) o K for the Gaussian kernel

Dense: the Gram matrices are kept for the backward, by the CPU kernels as the tiles on or above the
diagonal, elsewhere whole (tile >= n). Streaming: they are made again, and no n x n matrix exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bido_ext import reference
from bido_ext._float64 import Function, are_few, has_nan, in_dtypes, mark, marked, widened
from bido_ext.ops._define import define_derivative, define_op, refuse_double_backward
from bido_ext.ops._plan_arguments import LARGEST_N
from bido_ext.ops._validate import check_choice
from bido_ext.ops.bandwidth import Sigma
from bido_ext.ops.group import Group, Pairs
from bido_ext.ops.kernels import Kernel
from bido_ext.ops.measure import Measure, measure_pair
from bido_ext.ops.plan import choose_regime, dense_tile
from bido_ext.ops.streaming import keeps_tiles
from bido_ext.ops.workspace_of_rerun import bounded, fits_in_float64, is_bounded, tile_of_rerun
from bido_ext.reference.gram_stack import LABELS, gram_backward, group_dtype
from bido_ext.reference.hsic import u_center
from bido_ext.reference.resolution import nan_where_unresolved, unbiased_cancels, unresolved

ESTIMATORS = ("biased", "unbiased")
#: Of float64 sums: what is smaller is nothing (csrc/cpu/hsic_sums.h has the same).
ROUNDOFF = 1e-15


def hsic(
    x: Tensor,
    y: Tensor,
    kernel_x: Kernel | None = None,
    kernel_y: Kernel | None = None,
    estimator: str = "biased",
    num_classes: int | None = None,
    workspace_bytes: int | None = None,
    sigma: Sigma | None = None,
) -> Tensor:
    """Hilbert-Schmidt independence criterion (HSIC) of x and y: how much they depend on each other.

    With the centered Gram matrices HKH of x and HLH of y, it is tr(HKH HLH) / (n-1)^2. Its size also depends
    on the kernels; :func:`bido_ext.cka` is the normalized form.

    Args:
        x: Features (n, d), float64, float32, bfloat16 or float16.
        y: Features (n, e), or integer labels (n,), which are never expanded to one-hot.
        kernel_x: Kernel of x. Default: Gaussian(sigma=5.0).
        kernel_y: Kernel of y. Default: Linear() for integer labels, Gaussian(sigma=5.0) for float y. If a
            float y holds one-hot, soft or mixed labels, give kernel_y=Linear().
        estimator: "biased": tr(HKH HLH) / (n-1)^2 (Gretton et al. 2005), n >= 2;
            "unbiased": Song et al. 2012, equation 5, n >= 4.
        num_classes: Number of classes of integer labels. Labels are checked against it; a Gaussian on
            labels needs it.
        workspace_bytes: Largest memory in bytes beyond inputs and gradients. If the n x n matrices do not
            fit, they are computed tile by tile. Default: see :func:`bido_ext.plan`.
        sigma: Short for kernel_x=Gaussian(sigma) and, if y is float, kernel_y=Gaussian(sigma).

    Returns:
        A 0-d tensor: float64 for float64 features, else float32. Differentiable once. On a GPU and in
        compiled graphs it is NaN where float32 cannot resolve it.

    Raises:
        TypeError: An argument is not a tensor of an allowed dtype.
        ValueError: Shapes, devices or labels do not fit, or n is too small. On the CPU also: the features
            hold NaN or Inf, or even float64 cannot resolve the value.
        WorkspaceError: Not even tiles fit into workspace_bytes.

    Example:
        >>> bx.hsic(torch.randn(64, 512), torch.randint(0, 5, (64,)))
    """
    measure = HsicMeasure(check_choice(estimator, "estimator", ESTIMATORS) == "unbiased")
    return measure_pair(
        measure, x, y, kernel_x, kernel_y, num_classes, workspace_bytes, sigma=sigma
    )


class HsicMeasure(Measure):
    """HSIC, biased or unbiased."""

    name = "hsic"
    streams = True

    def __init__(self, unbiased: bool = False) -> None:
        self.unbiased = unbiased
        self.minimum_rows = 4 if unbiased else 2

    def values(self, group: Group, pairs: Pairs, workspace_bytes: int | None = None) -> Tensor:
        regime = choose_regime(group, self.name, workspace_bytes)
        with bounded(workspace_bytes):
            return hsic_of_pairs(group, pairs, self.unbiased, regime.tile, regime.kept_tiles)


def hsic_of_pairs(
    group: Group,
    pairs: Pairs,
    unbiased: bool = False,
    tile: int | None = None,
    kept_tiles: int = -1,
) -> Tensor:
    """HSIC of each pair of a group, float64 [pairs]; every Gram matrix is made once.

    Args:
        tile: Rows of a tile, as :func:`bido_ext.plan` chooses; default: the dense regime's.
        kept_tiles: Tiles kept per variable for the backward, which makes the others again; -1: all.
    """
    tile = dense_tile(group.n, group.variables[0].device.type) if tile is None else tile
    return torch.ops.bido_ext.hsic(
        group.variables, group.parameters, group.kinds, *pairs, unbiased, tile, kept_tiles
    )[0]


def _default(
    variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int], first: Sequence[int],
    second: Sequence[int], unbiased: bool, tile: int, kept_tiles: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The dense textbook: right on every device, but it does not save memory."""
    stack = reference.gram_stack(variables, parameters, kinds)
    bad = [unresolved(K, kind) for K, kind in zip(stack, kinds, strict=True)]
    if unbiased and stack[0].device.type == "cpu":
        for i in (i for i, kind in enumerate(kinds) if kind < LABELS):
            bad[i] = bad[i] | unbiased_cancels(stack[i])
    grams = [K.double() for K in stack]
    with torch.autocast(parameters.device.type, enabled=False):
        values = torch.stack(
            [
                _beyond_roundoff(
                    reference.hsic(grams[a], grams[b], unbiased), grams[a], grams[b], unbiased
                )
                for a, b in zip(first, second, strict=True)
            ]
        )
    values = nan_where_unresolved(values, bad, first, second)
    sums = torch.stack([K.sum(1) - K.diagonal() if unbiased else K.sum(1) for K in grams])
    # Its backward starts from the features; what is kept is kept for the shape that _fake promises.
    # NaN: a kernel's backward of this forward (precision changed in between) is seen, not silently wrong.
    kept = sums.new_full(
        _shape_of_kept(variables, kinds, tile, kept_tiles),
        float("nan"),
        dtype=group_dtype(variables, kinds),
    )
    if kept.numel() > 0:  # its first entry alone says whether this dtype did
        kept[0, 0, 0, 0] = torch.where(torch.stack(bad).any(), float("nan"), 0.0)
    return values, sums, kept


def _beyond_roundoff(value: Tensor, K: Tensor, L: Tensor, unbiased: bool) -> Tensor:
    """0 where a variable is constant, and the value is round-off of the entries."""
    n = len(K)
    if unbiased:  # a far sample makes entries large that have no part in the value
        nothing = [u_center(E).norm() <= ROUNDOFF * E.norm() for E in (K, L)]
        return torch.where(nothing[0] | nothing[1], 0 * value, value)
    size = K.norm() * L.norm() / (n - 1) ** 2
    return torch.where(value.abs() <= ROUNDOFF * size, 0 * value, value)


def _default_backward(
    grad: Tensor, variables: Sequence[Tensor], parameters: Tensor, sums: Tensor, tiles: Tensor,
    kinds: Sequence[int], first: Sequence[int], second: Sequence[int], unbiased: bool, tile: int,
    wanted: Sequence[int],
) -> list[Tensor]:  # fmt: skip
    dtype = group_dtype(variables, kinds)
    stack = reference.gram_stack(variables, parameters, kinds)
    grads = []
    with torch.autocast(grad.device.type, enabled=False):
        for own in wanted:
            G = stack[own].new_zeros(stack[own].shape, dtype=torch.float64)
            for p, (a, b) in enumerate(zip(first, second, strict=True)):
                for i, partner in ((a, b), (b, a)):
                    if i == own:
                        G += grad[p] * reference.hsic_gradient(stack[partner].double(), unbiased)
            x = variables[own]
            grads.append(
                gram_backward(G, stack[own], x, parameters[own], kinds[own], dtype).to(x.dtype)
            )
    return grads


def _fake(
    variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int], first: Sequence[int],
    second: Sequence[int], unbiased: bool, tile: int, kept_tiles: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    n = variables[0].shape[0]
    values, sums = parameters.new_empty((len(first),)), parameters.new_empty((len(kinds), n))
    shape = _shape_of_kept(variables, kinds, tile, kept_tiles)
    return values, sums, parameters.new_empty(shape, dtype=group_dtype(variables, kinds))


def _shape_of_kept(
    variables: Sequence[Tensor], kinds: Sequence[int], tile: int, kept_tiles: int
) -> tuple[int, int, int, int]:
    """(features, tiles, tile, tile): upper tiles, or where those are not kept, whole matrices or none."""
    n = variables[0].shape[0]
    features = sum(kind < LABELS for kind in kinds)
    several = 0 < tile < LARGEST_N and n > tile  # in this order: n may be a symbol
    tile = tile if several else n
    blocks = (n + tile - 1) // tile if several else 1
    count = blocks * (blocks + 1) // 2
    if not keeps_tiles(variables[0].device.type):
        return features, int(blocks == 1), tile, tile
    if 0 <= kept_tiles < count:
        count = kept_tiles
    return features, count, tile, tile


def _in_float64(call: Function, again: Function, args: Any) -> Any:
    *group, tile, kept_tiles = args
    few = tile > 0 and are_few(args[0], args[2])  # the kernel itself refuses another tile
    tile = tile_of_rerun(len(args[0][0]), tile)
    if few and not is_bounded():
        values, sums, _ = again("hsic", widened(args[0], args[2]), *group[1:], tile, 0)
        shape = _shape_of_kept(args[0], args[2], args[6], kept_tiles)
        return values, sums, mark(sums.new_empty(shape, dtype=group_dtype(args[0], args[2])))
    values, sums, kept = result = call("hsic", *args)
    wide = None
    failed = has_nan(values) or (args[5] and _unbiased_cancels(kept))
    if failed and fits_in_float64(args[0], args[2], tile):
        wide = widened(args[0], args[2])
    if wide is None:
        return result
    values, sums, _ = again("hsic", wide, *group[1:], tile, 0)
    return values, sums, mark(kept)


def _unbiased_cancels(kept: Tensor) -> bool:
    """Whether it does in the whole Gram matrix of a variable; the kernels of bido_cpu see it by themselves."""
    if keeps_tiles("cpu") or kept.numel() == 0 or bool(kept[:, 0].isnan().any()):
        return False
    return any(bool(unbiased_cancels(tile)) for tile in kept[:, 0])


def _backward_in_float64(call: Function, again: Function, args: Any) -> Any:
    grad, variables, parameters, sums, tiles, kinds, first, second, unbiased, tile, wanted = args
    wide = None
    again_tile = tile_of_rerun(len(sums[0]), tile)
    grads: list[Tensor] = []
    failed = are_few(variables, kinds) or (tiles.numel() > 0 and marked(tiles))
    if not failed:  # the backward sees by itself that it makes what it cannot resolve
        grads = call("hsic_backward", *args)
        failed = any(map(marked, grads))
    if failed:
        wide = widened(variables, kinds)
    if wide is None:
        return grads
    settings = kinds, first, second, unbiased, again_tile
    _, sums, tiles = again("hsic", wide, parameters, *settings, 0)
    grads = again("hsic_backward", grad, wide, parameters, sums, tiles, *settings, wanted)
    return in_dtypes(grads, variables, wanted)


define_op(
    "hsic",
    "(Tensor[] variables, Tensor parameters, int[] kinds, int[] first, int[] second, bool unbiased,"
    " int tile, int kept_tiles) -> (Tensor, Tensor, Tensor)",
    default=_default,
    fake=_fake,
    in_float64=_in_float64,
)
define_op(
    "hsic_backward",
    "(Tensor grad, Tensor[] variables, Tensor parameters, Tensor sums, Tensor tiles, int[] kinds,"
    " int[] first, int[] second, bool unbiased, int tile, int[] wanted) -> Tensor[]",
    default=_default_backward,
    fake=lambda grad, variables, parameters, sums, tiles, kinds, first, second, unbiased, tile, wanted: [
        variables[i].new_empty(variables[i].shape) for i in wanted
    ],
    in_float64=_backward_in_float64,
)
refuse_double_backward("hsic_backward")


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    variables, parameters, ctx.kinds, ctx.first, ctx.second, ctx.unbiased, ctx.tile, _ = inputs
    _, sums, tiles = output
    ctx.mark_non_differentiable(sums, tiles)
    ctx.set_materialize_grads(False)  # or the backward would be handed n x n zeros
    ctx.save_for_backward(parameters, sums, tiles, *variables)


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    parameters, sums, tiles, *variables = ctx.saved_tensors
    result: list[Tensor | None] = [None] * len(variables)
    wanted = [i for i, needed in enumerate(ctx.needs_input_grad[0]) if needed]
    if grad is not None and wanted:
        grads = torch.ops.bido_ext.hsic_backward(
            grad, variables, parameters, sums, tiles, ctx.kinds, ctx.first, ctx.second, ctx.unbiased,
            ctx.tile, wanted,
        )  # fmt: skip
        for i, g in zip(wanted, grads, strict=True):
            result[i] = g
    return result, *[None] * 7


define_derivative("hsic", _backward, _setup_context)

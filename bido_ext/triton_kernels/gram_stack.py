# SPDX-License-Identifier: Apache-2.0
"""gram_stack and its backward in Triton; see :mod:`bido_ext.ops.gram_stack`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from bido_ext.reference.kernel_entries import GRAM, LABELS, LINEAR, scalar
from bido_ext.triton_kernels.double_center import double_center
from bido_ext.triton_kernels.entry import LINEAR as LINEAR_KIND
from bido_ext.triton_kernels.entry import RATIONAL_QUADRATIC, feature_weight
from bido_ext.triton_kernels.features import Features, features_of, launches
from bido_ext.triton_kernels.gram_panel import gram_panel
from bido_ext.triton_kernels.launch import on_device
from bido_ext.triton_kernels.norms import squared_norms
from bido_ext.triton_kernels.resolution import mark_unresolved
from bido_ext.triton_kernels.split_gram import pays, split_grams
from bido_ext.triton_kernels.table import table
from bido_ext.triton_kernels.weighted_product import weighted_products

#: Of features, their parameters and the stack to fill: their squared norms.
Fill = Callable[[Sequence[Features], Tensor, Tensor], Tensor]


def fill_grams(features: Sequence[Features], parameters: Tensor, out: Tensor) -> Tensor:
    """out[f.slot] = the Gram matrix up to centering of each variable; returns the squared norms of their
    centered rows, float32 [features, n]."""
    norms = torch.empty(out.shape[:2], dtype=torch.float32, device=out.device)
    for group in launches(features):
        if pays(group):
            split_grams(group, parameters, out, norms)
            continue
        for f in group:
            of_rows = squared_norms(f, norms[f.slot])
            gram_panel(f, of_rows, parameters[f.index], out[f.slot])
    return norms


def gram_stack(
    variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int], fill: Fill = fill_grams
) -> Tensor:
    """(m, n, n) float32; NaN for the first entry of what float32 does not resolve."""
    n, device = variables[0].shape[0], parameters.device
    stack = torch.empty((len(kinds), n, n), dtype=torch.float32, device=device)
    features = features_of(variables, kinds)
    whole = len(features) == len(kinds)
    grams = stack
    if not whole:
        grams = torch.empty((len(features), n, n), dtype=torch.float32, device=device)
    if features:
        norms = fill(features, parameters, grams)
        rows = [f.marks for f in features]
        mark_unresolved(grams, norms, features[0].spreads, parameters, rows)
    if whole:
        return stack
    slots = {f.index: f.slot for f in features}
    for i, (v, kind) in enumerate(zip(variables, kinds, strict=True)):
        if kind == LABELS:
            scale = scalar(parameters[i]).float()
            torch.mul((v[:, None] == v[None, :]).float(), scale, out=stack[i])
        else:
            stack[i] = v if kind == GRAM else grams[slots[i]]
    return stack


@triton.jit
def gram_weights_kernel(
    grad, stack, parameters, weights, kinds, n, parameter_stride,
    IS_K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    v = tl.program_id(2)
    kind = tl.load(kinds + v)
    gamma = tl.load(parameters + v * parameter_stride).to(tl.float32)
    alpha = gamma
    if kind == RATIONAL_QUADRATIC:
        alpha = tl.load(parameters + v * parameter_stride + 1).to(tl.float32)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = (i < n)[:, None] & (j < n)[None, :]
    base = v.to(tl.int64) * n * n
    at = base + i.to(tl.int64)[:, None] * n + j[None, :]
    transposed = base + j.to(tl.int64)[None, :] * n + i[:, None]
    g = tl.load(grad + at, mask=mask, other=0.0) + tl.load(grad + transposed, mask=mask, other=0.0)
    entry = tl.load(stack + at, mask=mask, other=0.0)
    weight = feature_weight(kind, entry, 0.5 * g, gamma, alpha, IS_K)
    # The diagonal cancels against itself; its round-off would drown small weights.
    weight = tl.where((i[:, None] == j[None, :]) & (kind != LINEAR_KIND), 0.0, weight)
    # The first entry is NaN where float32 has not resolved the matrix: then no gradient is a number.
    of_first = tl.load(stack + base)
    weight += of_first - of_first
    tl.store(weights + at, weight, mask=mask)


def gram_weights(
    grad: Tensor, stack: Tensor, parameters: Tensor, kinds: Sequence[int], is_k: bool = False
) -> Tensor:
    """A of grad_x = (A - diag(A 1)) x for each matrix of a stack; H A H for the linear kernel, whose
    features are centered in the forward."""
    count, n = len(kinds), stack.shape[-1]
    grad, stack = grad.contiguous(), stack.contiguous()
    weights = torch.empty_like(stack)
    block = 32
    blocks = triton.cdiv(n, block)
    with on_device(stack):
        gram_weights_kernel[(blocks, blocks, count)](
            grad, stack, parameters, weights, table([kinds], stack.device), n,
            parameters.stride(0), IS_K=is_k, BLOCK=block,
        )  # fmt: skip
    for i, kind in enumerate(kinds):
        if kind == LINEAR:
            weights[i] = double_center(weights[i])
    return weights


def gram_stack_backward(
    grad: Tensor, stack: Tensor, variables: Sequence[Tensor], parameters: Tensor,
    kinds: Sequence[int],
) -> list[Tensor]:  # fmt: skip
    """One gradient per variable, in its dtype."""
    features = features_of(variables, kinds)
    weights = gram_weights(grad, stack, parameters, kinds)
    return weighted_products(weights, features, [v.dtype for v in variables])

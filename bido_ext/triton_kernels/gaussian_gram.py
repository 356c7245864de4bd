# SPDX-License-Identifier: Apache-2.0
"""gaussian_gram and its backward in Triton; see :mod:`bido_ext.ops.gaussian_gram`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bido_ext.reference.kernel_entries import GAUSSIAN
from bido_ext.triton_kernels.features import Features, features_of
from bido_ext.triton_kernels.gram_panel import gram_panel
from bido_ext.triton_kernels.gram_stack import gram_weights
from bido_ext.triton_kernels.norms import squared_norms
from bido_ext.triton_kernels.resolution import mark_unresolved
from bido_ext.triton_kernels.weighted_product import weighted_products

#: Of a variable, its squared norms and its matrix, both to be filled, its parameter, and whether K - 1 is wanted.
Fill = Callable[[Features, Tensor, Tensor, Tensor, bool], None]


def fill_gram(f: Features, norms: Tensor, gamma: Tensor, out: Tensor, minus_one: bool) -> None:
    """Norms first, then the matrix in one launch."""
    squared_norms(f, norms)
    gram_panel(f, norms, gamma, out, minus_one=minus_one)


def gaussian_gram(x: Tensor, gamma: Tensor, minus_one: bool, fill: Fill = fill_gram) -> Tensor:
    """K, or K - 1; (n, n) float32; NaN for the first entry of what float32 does not resolve."""
    (f,) = features_of([x], [GAUSSIAN])
    out = torch.empty((f.n, f.n), dtype=torch.float32, device=x.device)
    norms = torch.empty(f.n, dtype=torch.float32, device=x.device)
    fill(f, norms, gamma, out, minus_one)
    mark_unresolved(out[None], norms, f.spreads, gamma, [f.marks], with_mean=False)
    return out


def gaussian_gram_backward(
    grad: Tensor, gram: Tensor, x: Tensor, gamma: Tensor, minus_one: bool
) -> Tensor:
    """grad_x in the dtype of x."""
    weights = gram_weights(grad[None], gram[None], gamma.reshape(1), [GAUSSIAN], is_k=not minus_one)
    return weighted_products(weights, features_of([x], [GAUSSIAN]), [x.dtype])[0]

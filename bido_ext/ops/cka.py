# SPDX-License-Identifier: Apache-2.0
"""CKA of pairs of a group: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), a composition of the hsic op.

variables: m times [n, d_v] or labels [n]  ->  values: [pairs] float64
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bido_ext.ops.group import Group, Pairs
from bido_ext.ops.hsic import hsic_of_pairs
from bido_ext.ops.kernels import Kernel
from bido_ext.ops.measure import Measure, guarded_sqrt, measure_pair
from bido_ext.ops.plan import choose_regime


def cka(
    x: Tensor,
    y: Tensor,
    kernel_x: Kernel | None = None,
    kernel_y: Kernel | None = None,
    num_classes: int | None = None,
    workspace_bytes: int | None = None,
) -> Tensor:
    """Centered kernel alignment of x and y (Cortes et al. 2012; Kornblith et al. 2019).

    Args:
        x: Features (n, d), n >= 2, float64, float32, bfloat16 or float16.
        y: Features (n, e), or integer labels (n,), never expanded to one-hot.
        kernel_x: Kernel of x; default Gaussian(sigma=5.0).
        kernel_y: Kernel of y; default Gaussian(sigma=5.0) for features, whatever they hold, and Linear()
            for integer labels. One-hot, soft or mixed labels in floats want kernel_y=Linear().
        num_classes: Number of classes of integer labels; checked, and needed by a Gaussian on labels.
        workspace_bytes: Bound on the memory beyond inputs and gradients, as for :func:`bido_ext.hsic`.

    Returns:
        A 0-d tensor in [0, 1], float32 or, for float64 features, float64; 0 with gradient 0 where
        a variable is constant. Differentiable once.

    Raises:
        TypeError: An argument is not a tensor of an allowed dtype.
        ValueError: Shapes, devices or labels do not fit, or the features hold NaN or Inf (checked
            on the CPU).
        WorkspaceError: No regime fits into workspace_bytes.
    """
    return measure_pair(CkaMeasure(), x, y, kernel_x, kernel_y, num_classes, workspace_bytes)


class CkaMeasure(Measure):
    """CKA: the pairs of a group, and every variable with itself, from one pass."""

    name = "cka"
    streams = True

    def values(self, group: Group, pairs: Pairs, workspace_bytes: int | None = None) -> Tensor:
        regime = choose_regime(group, self.name, workspace_bytes)
        return cka_of_pairs(
            pairs,
            lambda every: hsic_of_pairs(group, every, False, regime.tile, regime.kept_tiles),
        )


def cka_of_pairs(pairs: Pairs, hsic_of: Callable[[Pairs], Tensor]) -> Tensor:
    """CKA of each pair from one call of ``hsic_of``, for the pairs and every variable with itself."""
    own = sorted({*pairs.first, *pairs.second})
    products = hsic_of(Pairs([*pairs.first, *own], [*pairs.second, *own]))
    count = len(pairs.first)
    norms = dict(zip(own, guarded_sqrt(products[count:]).unbind(), strict=True))
    size = torch.stack([norms[a] * norms[b] for a, b in zip(*pairs, strict=True)])
    # Of a constant variable what is left is round-off, of the gradient too.
    return torch.where(size > 0, products[:count] / torch.where(size > 0, size, 1.0), 0 * products[:count])

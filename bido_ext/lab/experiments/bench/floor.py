# SPDX-License-Identifier: Apache-2.0
"""The floor: the matrix products nobody can do without, at the speed of this machine's BLAS.

A Gram matrix is symmetric: half an (n, d) x (d, n) product per variable. The backward of a layer is one
(n, n) x (n, d) product. n^3 work of nhsic and coco is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

#: ("forward" or "backward", columns) of a product.
Product = tuple[str, int]


def floor_weights(dims: Sequence[int]) -> dict[Product, float]:
    """How many of each product a step over X (dims[0]) and its layers needs."""
    weights: dict[Product, float] = {}
    for i, d in enumerate(dims):
        weights["forward", d] = weights.get(("forward", d), 0.0) + 0.5
        if i:
            weights["backward", d] = weights.get(("backward", d), 0.0) + 1.0
    return weights


def floor_calls(
    n: int, dims: Sequence[int], dtype: torch.dtype, device: torch.device
) -> dict[Product, Callable[[], object]]:
    """One call per distinct product; operands and results are allocated here."""
    square = torch.zeros(n, n, dtype=dtype, device=device)
    weights = torch.randn(n, n, device=device).to(dtype)
    return {product: _call(product, n, square, weights) for product in floor_weights(dims)}


def _call(
    product: Product, n: int, square: torch.Tensor, weights: torch.Tensor
) -> Callable[[], object]:
    kind, d = product
    x = torch.randn(n, d, device=square.device).to(square.dtype)
    if kind == "forward":
        return lambda: torch.mm(x, x.T, out=square)
    grad = torch.zeros_like(x)
    return lambda: torch.mm(weights, x, out=grad)


def floor_seconds(dims: Sequence[int], seconds: Mapping[Product, float]) -> float:
    """The floor from the seconds of each product."""
    return sum(weight * seconds[product] for product, weight in floor_weights(dims).items())

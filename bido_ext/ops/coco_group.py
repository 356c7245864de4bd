# SPDX-License-Identifier: Apache-2.0
"""What both norms of COCO are given: a group, its pairs, and the Gram matrices that the backward needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bido_ext.ops.algebra import center_stack
from bido_ext.ops.gram_stack import gram_stack_of
from bido_ext.ops.kernels import same_class
from bido_ext.reference.gram_stack import GRAM, LABELS, group_dtype
from bido_ext.reference.kernel_entries import scalar
from bido_ext.reference.resolution import power_start, product_is_noise, roundoff_of, unresolved


@dataclass(frozen=True)
class CocoGroup:
    """Arguments of ``bido_ext::coco`` with the Gram matrices of the wanted variables.

    Attributes:
        stack: Gram matrices up to centering, (wanted, n, n).
        wide: Whether the n x n algebra runs in float64.
        unresolved: By variable, for the Gram matrices made so far: whether float32 does not hold it, 0-d.
        sizes: By variable: the round-off of its entries, 0-d, and |Kc| in the Frobenius and the spectral norm.
    """

    variables: Sequence[Tensor]
    parameters: Tensor
    kinds: Sequence[int]
    first: Sequence[int]
    second: Sequence[int]
    wide: bool
    wanted: Sequence[int]
    stack: Tensor
    unresolved: dict[int, Tensor] = field(default_factory=dict)
    sizes: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for E, i in zip(self.stack, self.wanted, strict=True):
            self._note(i, E)

    def _note(self, i: int, E: Tensor) -> None:
        self.unresolved[i] = unresolved(E, self.kinds[i])
        if E.device.type != "cpu":  # float64 is no second try there
            return
        Kc = center_stack(E, torch.float64)
        roundoff = roundoff_of(E)
        size = torch.stack([torch.linalg.vector_norm(Kc), _spectral_norm(Kc)])
        self.sizes[i] = (0 * roundoff if self.kinds[i] == GRAM else roundoff), size

    def noise(self, values: Tensor, norm: str) -> Tensor:
        """Which of the values (pairs,), sqrt(|Kc Lc|) / n in either norm, float32 entries do not hold."""
        which, bad = ("fro", "spectral").index(norm), []
        for value, pair in zip(values, self.pairs, strict=True):
            for i in pair:
                if self.kinds[i] == LABELS and i not in self.sizes:
                    of_class = same_class(self.variables[i], torch.float64).sum(1)
                    square = of_class.sum() - 2 * of_class.square().mean() + of_class.mean() ** 2
                    size = torch.stack([square.clamp_min(0).sqrt(), of_class.amax()])
                    self.sizes[i] = 0 * square, size * scalar(self.parameters[i])
            (own, size), (of_other, size_of_other) = (self.sizes[i] for i in pair)
            sizes = torch.stack([size_of_other[which], size[which]])
            product = (value * self.n).square()
            bad.append(
                (product > 0) & product_is_noise(torch.stack([own, of_other]), sizes, product)
            )
        return torch.stack(bad) if bad else torch.zeros_like(values, dtype=torch.bool)

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.variables[0].shape[0]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The two variables of each pair."""
        return list(zip(self.first, self.second, strict=True))

    @property
    def dtype(self) -> torch.dtype:
        """Of the n x n algebra."""
        return torch.float64 if self.wide else group_dtype(self.variables, self.kinds)

    def centered(self, i: int) -> Tensor:
        """H K H of variable i (n, n)."""
        if i in self.wanted:
            return center_stack(self.stack[list(self.wanted).index(i)], self.dtype)
        if self.kinds[i] == LABELS:  # exact in any dtype
            gram = same_class(self.variables[i], self.dtype) * scalar(self.parameters[i]).to(
                self.dtype
            )
        else:
            gram = gram_stack_of(self.variables, self.parameters, self.kinds, [i])[0]
            self._note(i, gram)
        return center_stack(gram, self.dtype)


def _spectral_norm(K: Tensor) -> Tensor:
    """Of symmetric K (n, n), 0-d, from below: a few steps of the power method."""
    v = power_start(len(K), K.dtype, K.device)
    size = torch.linalg.vector_norm(v)
    for _ in range(4):
        v = K @ (v / torch.where(size > 0, size, 1.0))
        size = torch.linalg.vector_norm(v)
    return size

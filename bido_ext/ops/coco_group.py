# SPDX-License-Identifier: Apache-2.0
"""What both norms of COCO are given: a group, its pairs, and the Gram matrices that the backward needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bido_ext.ops._validate import readable
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
        unresolved: By variable, for the Gram matrices noted so far: whether float32 does not hold it, 0-d.
        sizes: By variable, on the CPU: the round-off of its entries, and |Kc| in the Frobenius norm.
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
    sizes: dict[int, tuple[float, float]] = field(default_factory=dict)

    def note_wanted(self) -> None:
        """Looks at the Gram matrices of the wanted variables; the forward has to, the backward has not."""
        for E, i in zip(self.stack, self.wanted, strict=True):
            self._note(i, E)

    def _note(self, i: int, E: Tensor) -> None:
        self.unresolved[i] = unresolved(E, self.kinds[i])
        if not readable(E) or E.dtype == torch.float64:  # float64 is no second try there
            return
        roundoff = 0.0 if self.kinds[i] == GRAM else float(roundoff_of(E))
        size = torch.linalg.vector_norm(center_stack(E, torch.float64))
        self.sizes[i] = roundoff, float(size)

    def noise(self, values: Tensor, norm: str) -> Tensor:
        """Which of the values (pairs,), sqrt(|Kc Lc|) / n in either norm, float32 entries do not hold."""
        bad = [False] * len(self.pairs)
        if self.stack.dtype != torch.float64:
            products = [(value * self.n) ** 2 for value in values.tolist()]
            both = zip(products, self.pairs, strict=True)
            bad = [product > 0 and self._is_noise(product, pair, norm) for product, pair in both]
        return torch.tensor(bad, dtype=torch.bool, device=values.device)

    def _is_noise(self, product: float, pair: tuple[int, int], norm: str) -> bool:
        """By the Frobenius norms, which are the larger ones, and only then by the spectral norms."""
        of_labels = {i: self._norms_of_labels(i) for i in pair if self.kinds[i] == LABELS}
        noted = [(0.0, of_labels[i][0]) if i in of_labels else self.sizes[i] for i in pair]
        roundoffs, sizes = zip(*noted, strict=True)
        noisy = product_is_noise(roundoffs, sizes[::-1], product)
        if norm == "fro" or not noisy:
            return noisy
        sizes = tuple(
            of_labels[i][1] if i in of_labels else float(_spectral_norm(self._centered_features(i)))
            for i in pair
        )
        return product_is_noise(roundoffs, sizes[::-1], product)

    def _norms_of_labels(self, i: int) -> tuple[float, float]:
        """|Lc| of labels in the Frobenius norm, and the largest class, which bounds the spectral one."""
        of_class = same_class(self.variables[i], torch.float64).sum(1)
        square = of_class.sum() - 2 * of_class.square().mean() + of_class.mean() ** 2
        scale = float(scalar(self.parameters[i]))
        return float(square.clamp_min(0).sqrt()) * scale, float(of_class.amax()) * scale

    def _centered_features(self, i: int) -> Tensor:
        """H K H of features in float64, (n, n)."""
        if i in self.wanted:
            return center_stack(self.stack[list(self.wanted).index(i)], torch.float64)
        E = gram_stack_of(self.variables, self.parameters, self.kinds, [i])[0]
        return center_stack(E, torch.float64)

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
    """Of symmetric K (n, n) in float64, 0-d, from below: a few steps of the power method."""
    v = power_start(len(K), K.dtype, K.device)
    for _ in range(3):  # of entries that float32 holds: no step overflows
        v = K @ v
    before = torch.linalg.vector_norm(v)
    return torch.linalg.vector_norm(K @ v) / torch.where(before > 0, before, 1.0)

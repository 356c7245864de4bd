# SPDX-License-Identifier: Apache-2.0
"""The guard against NaN and Inf: an objective that is not finite names step, layer and term."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from bido_ext.ops._validate import readable


class FiniteGuard:
    """Looks at the value of each step; at the tensors only where the value is not finite.

    Args:
        enabled: True: always, at the price of one host sync a step on a GPU. None: on the CPU, where
            looking is free. False: never. Under torch.compile it is never looked at.

    Attributes:
        steps: Steps seen so far.
    """

    def __init__(self, enabled: bool | None) -> None:
        if enabled is not None and not isinstance(enabled, bool):
            raise TypeError(f"guard must be True, False or None, got {type(enabled).__name__}.")
        self.enabled = enabled
        self.steps = 0

    def looks_at(self, values: Tensor) -> bool:
        """Whether such values are looked at."""
        return readable(values) if self.enabled is None else self.enabled

    def check(
        self,
        total: Tensor,
        terms: Mapping[str, Sequence[Tensor]],
        inputs: Mapping[str, Tensor],
        reason: Callable[[], str],
    ) -> None:
        """Counts a step and checks it.

        Args:
            total: The objective, with or without its terms, of any shape.
            terms: By layer, the values of d(X, Z) and d(Z, Y).
            inputs: What the terms were made of, by the words that name it.
            reason: Why the measure of finite inputs is not finite, in words.

        Raises:
            ValueError: total is not finite; the first culprit is named.
        """
        if torch.compiler.is_compiling():
            return
        self.steps += 1
        if not self.looks_at(total) or bool(torch.isfinite(total).all()):
            return
        where = f"step {self.steps}"
        for name, tensor in inputs.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ValueError(
                    f"{name} contain(s) NaN or Inf in {where}: the dependence is undefined."
                )
        for layer, values in terms.items():
            for side, value in zip(("d(X, Z)", "d(Z, Y)"), values, strict=True):
                if not bool(torch.isfinite(value)):
                    raise ValueError(
                        f"{side} of layer '{layer}' is not finite although its features are ({where}): "
                        f"{reason()}"
                    )
        raise ValueError(
            f"the weighted sum of the terms overflows in {where}: lower lambda_x or lambda_y."
        )

# SPDX-License-Identifier: Apache-2.0
"""What BiDOLoss says once: batches and features that train nothing, although nothing is wrong with them.

Nothing is said under torch.compile, whose graphs cannot warn, nor where no gradient is wanted anyway.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from bido_ext.nn.warn_caller import warn_caller


class SaidOnce:
    """The warnings of one loss."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        # Weak, and by identity: a step must not keep the last one's graph alive.
        self._last: list[weakref.ref[Tensor]] = []

    def about_features(
        self, x: Tensor, features: Mapping[str, Tensor], y: Tensor, trains: bool = False
    ) -> None:
        """Of features that carry no gradient, or that are those of the step before.

        Args:
            trains: Whether the terms train something beside the features, such as a bandwidth.
        """
        if torch.compiler.is_compiling():
            return
        given = [x, y, *features.values()]
        old = [ref() for ref in self._last]
        if len(old) == len(given):
            same = [a is b for a, b in zip(old, given, strict=True)]
            # The same targets: somebody measures the same features against another input.
            if not any(same[:2]) and all(same[2:]):
                self._say("same", f"the features of layer(s) {', '.join(features)} {SAME}")
        self._last = [weakref.ref(t) for t in given]
        if not trains:
            self.without_gradient([name for name, z in features.items() if not z.requires_grad])

    def without_gradient(self, layers: Iterable[str]) -> None:
        """Of layers whose terms train nothing."""
        if names := ", ".join(layers):
            self._say("gradient", f"the features of layer(s) {names} {WITHOUT_GRADIENT}")

    def lone_sample(self) -> None:
        """Of a batch that has nothing to compare."""
        if not torch.compiler.is_compiling():
            self._say("lone", LONE)

    def _say(self, kind: str, what: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            warn_caller(f"BiDOLoss: {what} Said once.")

    def __getstate__(self) -> dict[str, Any]:
        """Copies and files hold no reference to the tensors of a step."""
        return {**vars(self), "_last": []}


SAME = (
    "are the tensors of the last call, although x and y are not: the model did not run in between, or its "
    "taps did not see it. Taps on a compiled model have to be set before its first call (or call "
    "torch._dynamo.reset() after setting them)."
)
WITHOUT_GRADIENT = (
    "carry no gradient, so that their terms train nothing: they were made under torch.no_grad, detached, "
    "left from an older (validation) forward, or all before them is frozen. Run the model with gradients "
    "before the loss, or do not tap them."
)
LONE = (
    "a batch of one sample has no dependence to measure, so that its terms are 0. If it is the last batch "
    "of an epoch, give the DataLoader drop_last=True; else take larger batches."
)

# SPDX-License-Identifier: Apache-2.0
"""MID: a variational bottleneck before the head (Wang, Zhang and Jia, AAAI 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from bido_ext.lab.models import BottleneckClassifier

from .rule import DefenceSpec, Penalty, Rule


class Mid(Rule):
    """beta times the KL term that the bottleneck keeps of its last forward."""

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[Penalty]:
        """See ``Rule``."""
        if not isinstance(model, BottleneckClassifier):
            raise ValueError(
                "the defence 'mid' needs a model with a bottleneck: build_model(..., defence='mid')"
            )

        def penalty(x: Tensor, logits: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            assert model.kl is not None  # set by the forward that made the logits
            return self.weights["beta"] * model.kl, {"kl": model.kl.detach()}

        yield penalty


SPECS = (
    DefenceSpec(
        "mid",
        {"beta": 0.1},
        "MID: variational bottleneck before the head",
        "MID",
        Mid,
        per_image=True,
    ),
)

# SPDX-License-Identifier: Apache-2.0
"""The ablation of BiDO's introduction: dependence of the logits on the input, and nothing else.

As in the published code, the kernel on the logits is linear and the norm Frobenius's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from .rule import DefenceSpec, Penalty, Rule


class Unilateral(Rule):
    """lambda_x times COCO(inputs, logits)."""

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[Penalty]:
        """See ``Rule``."""
        from bido_ext import Linear, coco

        def penalty(x: Tensor, logits: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            dependence = coco(x.flatten(1), logits, kernel_y=Linear(), norm="fro")
            return self.weights["lambda_x"] * dependence, {"coco(x,logits)": dependence.detach()}

        yield penalty


SPECS = (
    DefenceSpec(
        "unilateral",
        {"lambda_x": 1.0},
        "COCO(inputs, logits) penalty alone; linear kernel on the logits, Frobenius norm",
        "COCO(X, logits)",
        Unilateral,
    ),
)

# SPDX-License-Identifier: Apache-2.0
"""Negative label smoothing (Struppek et al., "Be Careful What You Smooth For", ICLR 2024).

(1 - a) * cross-entropy + a * mean over all classes of -log p, with a below 0.  As released, a is 0
for the first half of the epochs, grows linearly until three quarters, then is full: the factor of
epoch e of E there is (e - E/2) / (E - E/2), which reaches a half before it jumps to 1.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .rule import DefenceSpec, Rule


class LabelSmoothing(Rule):
    """Smoothed cross-entropy; a positive ``alpha`` is ordinary label smoothing."""

    def task_loss(self, logits: Tensor, y: Tensor, epoch: int, epochs: int) -> Tensor:
        """See ``Rule``."""
        alpha = self.weights["alpha"] * self.factor(epoch, epochs)
        log_p = logits.log_softmax(1)
        return (1 - alpha) * F.nll_loss(log_p, y) - alpha * log_p.mean()

    @property
    def follows_epochs(self) -> bool:
        """See ``Rule``."""
        return True

    def factor(self, epoch: int, epochs: int) -> float:
        """The share of ``alpha`` in ``epoch``, from 1."""
        begins, full = (self.weights[name] * epochs for name in ("begins", "full"))
        if epoch > full:
            return 1.0
        return max(0.0, (epoch - begins) / (epochs - begins)) if begins < epochs else 0.0


SPECS = (
    DefenceSpec(
        "ls",
        {"alpha": -0.05, "begins": 0.5, "full": 0.75},
        "negative label smoothing, from the share `begins` of the epochs on (Struppek et al., ICLR 2024)",
        "label smoothing",
        LabelSmoothing,
        may_be_negative=("alpha",),
        replaces_loss=True,
        per_image=True,
    ),
)

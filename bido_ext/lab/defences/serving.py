# SPDX-License-Identifier: Apache-2.0
"""Defences of what is answered, not of what is learnt: rounded confidences, or the label alone.

Rounding is that of Fredrikson et al. (CCS 2015).  The training is plain.  An attack that has the
weights never asks, so only black-box attacks meet these.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .rule import DefenceSpec, Rule


class Rounding(Rule):
    """Probabilities to ``digits`` decimals."""

    def __init__(self, weights: dict[str, float], taps: tuple[str, ...]) -> None:
        super().__init__(weights, taps)
        if weights["digits"] != int(weights["digits"]):
            raise ValueError(f"digits must be a whole number, got {weights['digits']:g}")

    def answers(self, probabilities: Tensor) -> Tensor:
        """See ``Rule``."""
        return torch.round(probabilities, decimals=int(self.weights["digits"]))


class LabelOnly(Rule):
    """The most likely label, as a one-hot row."""

    def answers(self, probabilities: Tensor) -> Tensor:
        """See ``Rule``."""
        label = probabilities.argmax(1)
        return F.one_hot(label, probabilities.shape[1]).to(probabilities.dtype)


ROUNDING = DefenceSpec(
    "rounding",
    {"digits": 2.0},
    "answers rounded to decimals (Fredrikson et al., CCS 2015); white-box attacks do not meet it",
    "rounded answers",
    Rounding,
    per_image=True,
)
LABEL_ONLY = DefenceSpec(
    "label-only",
    {},
    "answers are labels without confidences; white-box attacks do not meet it",
    "label only",
    LabelOnly,
    per_image=True,
)
SPECS = (ROUNDING, LABEL_ONLY)

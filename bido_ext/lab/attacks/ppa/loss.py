# SPDX-License-Identifier: Apache-2.0
"""PPA's identity loss (Struppek et al., ICML 2022, section 3.3), and what may stand in for it."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bido_ext.lab.attacks.plg.loss import max_margin_loss
from bido_ext.lab.attacks.target import at_least_float32

SHRINK = 1e-4  # the wanted class's corner lies on the border of the ball, infinitely far away


def poincare_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Distance in the Poincare ball between u = logits / |logits|_1 and the wanted corner, (n,).

    arccosh(1 + 2 |u - v|^2 / ((1 - |u|^2) (1 - |v|^2))), v one-hot with 0.9999 for its 1.
    """
    logits = at_least_float32(logits)
    u = logits / logits.abs().sum(1, keepdim=True)
    v = F.one_hot(labels, logits.shape[1]).to(logits) * (1 - SHRINK)
    # |u|_2 reaches 1 only with all but one logit at 0: kept off the border it has a gradient.
    room_u = (1 - u.square().sum(1)).clamp_min(1e-7)
    room_v = 1 - (1 - SHRINK) ** 2
    x = 2 * (u - v).square().sum(1) / (room_u * room_v)
    # arccosh(1 + x) without losing a small x beside the 1; x > 0, as |u|_1 = 1 and |v|_1 < 1.
    return torch.log1p(x + (x * (x + 2)).sqrt())


def cross_entropy_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p of the wanted class, (n,)."""
    return F.cross_entropy(at_least_float32(logits), labels, reduction="none")


Loss = Literal["poincare", "cross-entropy", "max-margin"]
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "poincare": poincare_loss,
    "cross-entropy": cross_entropy_loss,
    "max-margin": max_margin_loss,
}

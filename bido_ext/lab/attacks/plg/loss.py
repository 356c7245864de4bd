# SPDX-License-Identifier: Apache-2.0
"""PLG-MI's identity loss (Yuan et al., AAAI 2023, section 3.3), and the hinge losses of its GAN."""

import torch.nn.functional as F
from torch import Tensor

from bido_ext.lab.attacks.target import at_least_float32


def max_margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest other logit minus the wanted one, (n,); its gradient does not vanish near 1.

    Args:
        logits: (n, classes).
        labels: (n,) int64.
    """
    logits = at_least_float32(logits)
    wanted = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.amax(1) - wanted


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator descends: mean of max(0, 1 - real) + mean of max(0, 1 + fake)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

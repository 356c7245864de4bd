# SPDX-License-Identifier: Apache-2.0
"""Variational bottleneck of the MID defence (Wang, Zhang and Jia, AAAI 2021)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import FeatureClassifier


class BottleneckClassifier(nn.Module):
    """A classifier whose features pass through z ~ N(mu, std^2) before the linear head.

    Attributes:
        kl: KL(N(mu, std^2) || N(0, I)), summed over z, averaged over the batch, of the last
            forward in training mode; ``None`` before. In eval mode z = mu: the published code
            samples there too, which makes predictions and attack gradients random.
    """

    kl: Tensor | None

    def __init__(self, body: FeatureClassifier, num_classes: int) -> None:
        super().__init__()
        dim = body.bottleneck_dim
        body.head = nn.Identity()  # the bottleneck brings its own head
        self.body = body
        self.encoder = nn.Linear(body.feature_dim, 2 * dim)
        self.head = nn.Linear(dim, num_classes)
        self.feature_dim = dim
        self.kl = None
        self.input_shape = body.input_shape
        self.taps = tuple(f"body.{tap}" for tap in body.taps)

    def seen(self, x: Tensor) -> Tensor:
        """The input as the network sees it."""
        return self.body.seen(x)

    def features(self, x: Tensor) -> Tensor:
        """The code z: (n, dim); a sample in training mode, its mean in eval mode."""
        mu, raw = self.encoder(self.body.features(x)).chunk(2, dim=1)
        if not self.training:
            return mu
        # softplus underflows to 0 for very negative input; the floor keeps log(std) finite.
        std = F.softplus(raw - 5.0).clamp_min(1e-6)
        self.kl = 0.5 * (mu.square() + std.square() - 1.0 - 2.0 * std.log()).sum(1).mean()
        return mu + std * torch.randn_like(std)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_classes)."""
        return self.head(self.features(x))

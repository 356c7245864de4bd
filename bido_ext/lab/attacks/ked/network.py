# SPDX-License-Identifier: Apache-2.0
"""KED-MI's discriminator: the target's classes as outputs, minibatch discrimination before them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bido_ext.lab.attacks.networks import DIGITS, check_shape, doubling, down, scaled

KERNELS, KERNEL_DIM = 64, 50


class MinibatchDiscrimination(nn.Module):
    """How close each image of a batch comes to the others (Salimans et al. 2016, section 3.2).

    o(x_i)_b = sum over j != i of exp(-|f(x_i) T_b - f(x_j) T_b|_1): features (n, inputs) ->
    (n, kernels).
    """

    def __init__(self, inputs: int, kernels: int = KERNELS, dim: int = KERNEL_DIM) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, kernels, dim))

    @property
    def kernels(self) -> int:
        """Width of the output."""
        return self.weight.shape[1]

    def forward(self, features: Tensor) -> Tensor:
        n = len(features)
        projected = (features @ self.weight.flatten(1)).unflatten(1, self.weight.shape[1:])
        by_kernel = projected.transpose(0, 1)  # [kernels, n, dim]
        closeness = torch.cdist(by_kernel, by_kernel, p=1).neg().exp()
        # Masked, not "minus one": beside the 1 of an image with itself small terms would be lost.
        others = 1.0 - torch.eye(n, dtype=features.dtype, device=features.device)
        return (closeness * others).sum(2).T


class TargetDiscriminator(nn.Module):
    """Images (n, *shape) -> logits over the target's classes; "fake" is the implicit class K + 1.

    Four halving convolutions for 64 x 64 images, three for 32 x 32; 4096 features at width 1.

    Args:
        num_classes: of the target.
        width: scales the channel counts.
        shape: (channels, side, side) of the images.
    """

    def __init__(self, num_classes: int, width: float = 1.0, shape: Sequence[int] = DIGITS) -> None:
        super().__init__()
        self.shape, self.num_classes = check_shape(shape), num_classes
        # The published 64 x 64 network does not double to 512: its last stage is 256, 3 x 3.
        channels = scaled(width, *(min(256, count) for count in doubling(self.shape)))
        kernels = [5 if count < 512 else 3 for count in doubling(self.shape)]
        inputs = [self.shape[0], *channels[:-1]]
        self.body = nn.Sequential(
            *(
                layer
                for i, o, kernel in zip(inputs, channels, kernels, strict=True)
                for layer in down(i, o, kernel)
            ),
            nn.Flatten(),
        )
        width_of_features = channels[-1] * 16
        self.minibatch = MinibatchDiscrimination(width_of_features)
        self.head = nn.Linear(width_of_features + self.minibatch.kernels, num_classes)

    def start_from(self, critic: nn.Module) -> int:
        """Take over the first convolutions of a trained critic, as far as the shapes agree.

        Returns:
            How many.
        """
        taken = 0
        for mine, theirs in zip(_convolutions(self.body), _convolutions(critic), strict=False):
            if mine.weight.shape != theirs.weight.shape:
                break
            mine.load_state_dict(theirs.state_dict())
            taken += 1
        return taken

    def features(self, x: Tensor) -> Tensor:
        """What feature matching compares: (n, features)."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch, each image compared with the others."""
        features = self.features(x)
        return self.head(torch.cat([features, self.minibatch(features)], 1))

    def alone(self, x: Tensor) -> Tensor:
        """Logits of each image as a batch of its own, that is, with o(x) = 0."""
        features = self.features(x)
        return self.head(nn.functional.pad(features, (0, self.minibatch.kernels)))


def _convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]

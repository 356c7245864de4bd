# SPDX-License-Identifier: Apache-2.0
"""What an attack found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Reconstructions:
    """What the attack found, on the CPU.

    Attributes:
        images: (restarts, classes, channels, height, width) float32 in [0, 1]. Attacks that draw
            several images of one search count each as a restart here, those of a search in a row.
        latents: (restarts, classes, ...), what the generator made them of.
        classes: the attacked labels, in the order of the second axis.
        target_confidence: (restarts, classes), the target's probability of the wanted class.
        draws: images of one search of a class; the intervals of the judge take them together.
        queries: images that a black-box attack asked about; None where it has the weights.
    """

    images: Tensor
    latents: Tensor
    classes: list[int]
    target_confidence: Tensor
    draws: int = 1
    queries: int | None = None


@torch.no_grad()
def collect(
    latents: Tensor,
    synthesise: Callable[..., Tensor],
    target: Callable[[Tensor], Tensor] | nn.Module,
    classes: Sequence[int],
    *,
    batch_size: int,
    device: torch.device,
    draws: int = 1,
    conditional: bool = False,
) -> Reconstructions:
    """The images of ``latents`` and what the target says of them.

    Args:
        latents: (restarts * classes, ...), class after class within a restart.
        synthesise: latents -> images; of the wanted labels too if ``conditional``.
        target: images -> logits.
        draws: images of one search.
    """
    labels = torch.tensor(list(classes)).repeat(len(latents) // len(classes))
    images, confidence = [], []
    for part, wanted in zip(latents.split(batch_size), labels.split(batch_size), strict=True):
        # A generator may overshoot; what is judged is an image.
        given = [part.to(device), *([wanted.to(device)] if conditional else [])]
        made = synthesise(*given).clamp(0, 1)
        chosen = target(made).softmax(1).gather(1, wanted.to(device)[:, None])
        images.append(made.cpu())
        confidence.append(chosen.squeeze(1).cpu())
    by_class = (-1, len(classes))
    return Reconstructions(
        torch.cat(images).unflatten(0, by_class).contiguous(),
        latents.detach().cpu().unflatten(0, by_class),
        list(classes),
        torch.cat(confidence).unflatten(0, by_class),
        draws,
    )


def sample_major(latents: Tensor, restarts: int) -> Tensor:
    """Latents (restarts * classes, samples, ...) in the order of ``Reconstructions``.

    Returns:
        (restarts * samples * classes, ...): class after class within a sample, sample after sample
        within a restart.
    """
    by_restart = latents.unflatten(0, (restarts, -1)).transpose(1, 2)
    return by_restart.flatten(0, 2)

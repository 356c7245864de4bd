# SPDX-License-Identifier: Apache-2.0
"""What the surrogates learn from: images of the T-ACGAN and the labels that the target gives them.

The images are made again in every step; ``labels.pt`` holds the labels, so that none is asked for
twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from bido_ext.lab.attacks.black_box import BlackBox
from bido_ext.lab.attacks.plg.network import LATENT_DIM
from bido_ext.lab.attacks.plg.views import DRAWS, view
from bido_ext.lab.attacks.rows import stream_seed
from bido_ext.lab.models.checkpoint import resume_or_none
from bido_ext.lab.models.safe_save import save_atomic

FILE = "labels.pt"


class Labelled:
    """``count`` made images of each class and the target's labels of them.

    Args:
        generator: conditional, in eval mode.
        count: images of each class.
        seed: starts the noise.
        device: of the generator.
    """

    def __init__(self, generator: nn.Module, count: int, seed: int, device: torch.device) -> None:
        self.generator, self.device = generator, device
        self.num_classes = int(generator.num_classes)  # type: ignore[arg-type]
        self.wanted = torch.arange(self.num_classes).repeat_interleave(count)
        random = torch.Generator().manual_seed(stream_seed(seed, "lokt latents"))
        self.latents = torch.randn(len(self.wanted), LATENT_DIM, generator=random)
        self.labels = torch.empty(0, dtype=torch.int64)

    def ask(
        self, target: BlackBox, batch_size: int, path: Path | None, inputs: Mapping[str, Any],
        resume: bool,
    ) -> None:  # fmt: skip
        """Fill ``labels``.

        Args:
            target: what is asked.
            batch_size: images asked about at once.
            path: file of the labels; None keeps nothing.
            inputs: what they depend on; a file of others is refused.
            resume: take what ``path`` holds.

        Raises:
            ValueError: ``path`` holds the labels of other images or of another target.
            FloatingPointError: an answer is NaN.
        """
        entries = {"labels": Tensor}
        saved = resume_or_none(path, inputs, entries) if path is not None and resume else None
        if saved is not None:
            self.labels = saved["labels"]
            return
        parts = torch.arange(len(self.wanted)).split(batch_size)
        labels = torch.cat([target.labels(self.images(part)) for part in parts])
        if bool((labels < 0).any()):
            first = int((labels < 0).nonzero()[0])
            raise FloatingPointError(
                f"LOKT: identity {int(self.wanted[first])}: the target's answer to image {first} "
                "made for it is NaN"
            )
        self.labels = labels
        if path is not None:
            save_atomic({"settings": dict(inputs), "labels": labels}, path)

    @torch.no_grad()
    def images(self, chosen: Tensor) -> Tensor:
        """The images of these positions, on the device."""
        wanted = self.wanted[chosen].to(self.device)
        made: Tensor = self.generator(self.latents[chosen].to(self.device), wanted)
        return made.clamp(0, 1)

    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """``count`` images as they are and in a view each, and the labels of both, one-hot."""
        chosen = torch.randint(len(self.labels), (count,), generator=random)
        images = self.images(chosen)
        seen = view(images, torch.rand(count, DRAWS, generator=random))
        answers = one_hot(self.labels[chosen], self.num_classes).to(images)
        return torch.cat([images, seen]), answers.repeat(2, 1)

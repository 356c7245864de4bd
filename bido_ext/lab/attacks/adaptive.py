# SPDX-License-Identifier: Apache-2.0
"""An adaptive attacker: a white-box attack that runs on a surrogate of the target.

A defence may bend the target's gradients or plant shortcuts in it (label smoothing, Trap-MID, BiDO).
A surrogate is distilled from what the target answers to public images, where the defence must
answer as a useful classifier does, and need not inherit them. It stands in for the target wherever
the attack would ask it, the training of a generator of its own included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from bido_ext.lab.data import ImageSet
from bido_ext.lab.data.augment import augmentation
from bido_ext.lab.training.checked import Count, Positive, Several, Share, Weight, checked

from .adversarial import AUTO, drawn, ranges_of
from .result import Reconstructions
from .rows import stream_seed
from .spec import AttackSpec
from .surrogates import FILE, Distillation, distil, names_of
from .target import at_least_float32, check_target, place

PUBLISHED = tuple(f"torchvision/efficientnet_b{i}" for i in range(3))
#: What an attack may run on in place of the target alone.
KINDS = ("surrogate", "surrogate+target")


@checked
class AdaptiveConfig:
    """What the attack runs on, and how the surrogate learns.

    Attributes:
        kind: "surrogate", or "surrogate+target": the mean of the logits of both.
        networks: distilled from the target, comma-separated: names of ``bido list models`` or
            ``small-N`` with N stages of convolution at each size; "auto": LOMMA's EfficientNet-b0, b1,
            b2 for colour images from 64 pixels on, small-1, small-2, small-3 otherwise.
        steps, lr, momentum, decay: of SGD; default: LOMMA's 20 epochs of 30,000 images.
        batch_size: public images in a step.
        width: scales the channel counts of ``small-N``.
        augment: of the public images, as of the GAN's training.
        seed: starts the weights and every step's draws.
        checkpoint_every: steps between checkpoints.
    """

    kind: Literal["surrogate", "surrogate+target"] = "surrogate"
    networks: str = AUTO
    steps: Count = 9_400
    lr: Positive = 0.01
    momentum: Share = 0.9
    decay: Weight = 1e-4
    batch_size: Several = 64
    width: Positive = 1.0
    augment: str = AUTO
    seed: int = 0
    checkpoint_every: Count = 100

    def __post_init__(self) -> None:
        if self.augment != AUTO:
            augmentation(self.augment)

    def training(self, shape: tuple[int, int, int]) -> Distillation:
        """How the networks for images of ``shape`` learn."""
        return Distillation(
            names_of(self.networks, shape, PUBLISHED), self.steps, self.lr, self.momentum,
            self.decay, width=self.width,
        )  # fmt: skip


PRESETS = {
    "quick": AdaptiveConfig(steps=200, width=0.5),
    "smoke": AdaptiveConfig(networks="small-1", steps=3, batch_size=8, width=0.1),
}


class StandIn(nn.Module):
    """Networks that an attack takes for the target: the mean of their logits.

    Args:
        networks: surrogates, and perhaps the target.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes)."""
        return torch.stack([at_least_float32(network(x)) for network in self.networks]).mean(0)


def check_white_box(spec: AttackSpec) -> None:
    """Refuse an attack that has no weights of the target, and so none to stand in for.

    Raises:
        ValueError: it is one.
    """
    if spec.access != "white box":
        raise ValueError(
            f"adaptive is for white-box attacks, {spec.name} is {spec.access}: what it asks is the "
            "target, and nothing can stand in for that"
        )


def stand_in(
    config: AdaptiveConfig,
    target: nn.Module,
    public: ImageSet,
    run_dir: Path | None,
    *,
    digest: str,
    resume: bool = True,
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> StandIn:
    """Distil the surrogate from what ``target`` answers to public images.

    Args:
        config: what stands in, and how it learns.
        target: images -> logits; it is put in eval mode.
        public: the attacker's images, of the shape that the target takes.
        run_dir: where ``checkpoint.pt`` is kept; None keeps nothing.
        digest: of the target's weights; a checkpoint of another target is refused.
        resume: continue a run of the same configuration, images and target found in ``run_dir``.

    Raises:
        ValueError: a target that does not take such images, unknown networks, or ``run_dir`` holds
            another surrogate.
        FloatingPointError: a loss is no longer finite.
    """
    where = torch.device(device)
    place(target, device=where)
    outputs = check_target(target, [0], public.shape, where)
    ranges = ranges_of(config.augment, public.shape)
    training = config.training(public.shape)
    inputs = {
        **asdict(config),
        "names": list(training.names),
        "target": digest,
        "public_sha256": public.sha256() if run_dir is not None else "",
    }
    del inputs["kind"], inputs["checkpoint_every"]  # the same surrogate serves both kinds

    def draw(random: torch.Generator) -> tuple[Tensor, Tensor]:
        images = drawn(public, ranges, config.batch_size, random)[0].to(where)
        with torch.no_grad():
            return images, at_least_float32(target(images)).softmax(1)

    made = distil(
        training, draw, outputs, public.shape, seed=stream_seed(config.seed, "adaptive"),
        inputs=inputs, path=None if run_dir is None else run_dir / FILE, resume=resume,
        progress=progress, every=config.checkpoint_every, device=where,
    )  # fmt: skip
    return StandIn([*made, *([target] if config.kind == "surrogate+target" else [])]).eval()


@torch.no_grad()
def told_by(
    target: nn.Module, found: Reconstructions, device: torch.device, batch_size: int = 256
) -> Tensor:
    """The target's own probability of the wanted class of each reconstruction (restarts, classes)."""
    images = found.images.flatten(0, 1)
    wanted = torch.tensor(found.classes).repeat(len(found.images))
    parts = [
        at_least_float32(target(part.to(device))).softmax(1).cpu()
        for part in images.split(batch_size)
    ]
    chosen = torch.cat(parts).gather(1, wanted[:, None])
    return chosen.squeeze(1).unflatten(0, (-1, len(found.classes)))

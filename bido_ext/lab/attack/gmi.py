# SPDX-License-Identifier: Apache-2.0
"""GMI: search the generator's latents for images that the target assigns to a class.

Zhang et al., "The Secret Revealer" (CVPR 2020), in the form of the BiDO experiments: every
restart is kept and nothing is selected by the evaluation classifier.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from bido_ext.lab.checkpoint import resume_or_none, save_atomic, weights_digest

from .gan import Gan
from .networks import LATENT_DIM


@dataclass(frozen=True)
class GmiConfig:
    """How the latents are searched.

    The loss is the sum over restarts and classes of -critic(G(z)) + id_weight * cross-entropy, so
    no result depends on what else is attacked in the same call. The published code takes the mean
    over the classes attacked together: its lr divided by their number is ours (MNIST: 0.01 / 5).

    Attributes:
        steps: of momentum descent in z.
        lr, momentum: v' = momentum v - lr g; z += (1 + momentum) v' - momentum v.
        id_weight: weight of the identity loss.
        clip: latents are clamped to [-clip, clip] after every step.
        restarts: independent starts per class; restart r starts from seed + r.
        checkpoint_every: steps between checkpoints.
    """

    steps: int = 3000
    lr: float = 2e-3
    momentum: float = 0.9
    id_weight: float = 100.0
    clip: float = 1.0
    restarts: int = 100
    seed: int = 0
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")
        if not self.id_weight >= 0.0:
            raise ValueError(f"id_weight must be at least 0, got {self.id_weight}")


@dataclass
class Reconstructions:
    """What the attack found, on the CPU.

    Attributes:
        images: (restarts, classes, 1, 32, 32) float32 in [0, 1].
        latents: (restarts, classes, 100).
        classes: the attacked labels, in the order of the second axis.
        target_confidence: (restarts, classes), the target's probability of the wanted class.
    """

    images: Tensor
    latents: Tensor
    classes: list[int]
    target_confidence: Tensor


def invert(
    config: GmiConfig,
    target: nn.Module,
    gan: Gan,
    classes: Sequence[int],
    *,
    run_dir: Path | str | None = None,
    resume: bool = True,
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> Reconstructions:
    """Attack ``classes`` of ``target`` from ``config.restarts`` starts each, all in one batch.

    Args:
        target: (n, 1, 32, 32) -> logits; it is put in eval mode.
        classes: labels of the target to reconstruct.
        run_dir: where ``latents.pt`` is kept to continue a killed run; ``None`` keeps nothing.
        resume: continue an attack of the same configuration, target and GAN found in ``run_dir``.

    Raises:
        ValueError: no classes, a label the target does not have, or ``run_dir`` holds another run.
    """
    device = torch.device(device)
    generator, critic = gan.generator, gan.critic
    for network in (target, generator, critic):
        network.to(device).to(memory_format=torch.channels_last).eval()
    _check_classes(target, classes, device)
    labels = torch.tensor(list(classes), device=device).repeat(config.restarts)
    latents, velocity, first = _starts(config, len(classes), device), None, 0
    path, settings = None, {}
    if run_dir is not None:
        path = Path(run_dir) / "latents.pt"
        settings = {**asdict(config), "classes": list(classes)}
        settings.update(target=weights_digest(target), generator=weights_digest(generator))
        saved = resume_or_none(path, settings) if resume else None
        if saved is not None:
            latents, velocity = saved["latents"].to(device), saved["velocity"].to(device)
            first = saved["step"]
    velocity = torch.zeros_like(latents) if velocity is None else velocity
    for step in tqdm(
        range(first + 1, config.steps + 1), "GMI steps", initial=first, total=config.steps,
        disable=not progress,
    ):  # fmt: skip
        latents, velocity = _step(config, latents, velocity, target, gan, labels)
        if path is not None and (step % config.checkpoint_every == 0 or step == config.steps):
            save_atomic(
                {"step": step, "latents": latents, "velocity": velocity, "settings": settings}, path
            )
    return _collect(latents, target, generator, labels, list(classes))


def _starts(config: GmiConfig, classes: int, device: torch.device) -> Tensor:
    """Standard normal latents (restarts * classes, 100); restart r is the same however many."""
    starts = [
        torch.randn(classes, LATENT_DIM, generator=torch.Generator().manual_seed(config.seed + r))
        for r in range(config.restarts)
    ]
    return torch.cat(starts).to(device)


def _step(
    config: GmiConfig,
    latents: Tensor,
    velocity: Tensor,
    target: nn.Module,
    gan: Gan,
    labels: Tensor,
) -> tuple[Tensor, Tensor]:
    latents = latents.detach().requires_grad_()
    images = gan.generator(latents)
    prior = -gan.critic(images).sum()
    identity = F.cross_entropy(target(images), labels, reduction="sum")
    loss = prior + config.id_weight * identity
    (gradient,) = torch.autograd.grad(loss, latents)
    with torch.no_grad():
        new = config.momentum * velocity - config.lr * gradient
        moved = latents - config.momentum * velocity + (1.0 + config.momentum) * new
        return moved.clamp(-config.clip, config.clip), new


@torch.no_grad()
def _collect(
    latents: Tensor, target: nn.Module, generator: nn.Module, labels: Tensor, classes: list[int]
) -> Reconstructions:
    images = generator(latents)
    confidence = target(images).softmax(1).gather(1, labels[:, None]).squeeze(1)
    return Reconstructions(
        images.cpu().unflatten(0, (-1, len(classes))).contiguous(),
        latents.detach().cpu().unflatten(0, (-1, len(classes))),
        classes,
        confidence.cpu().unflatten(0, (-1, len(classes))),
    )


@torch.no_grad()
def _check_classes(target: nn.Module, classes: Sequence[int], device: torch.device) -> None:
    if not classes:
        raise ValueError("classes must name at least one label")
    outputs = target(torch.zeros(1, 1, 32, 32, device=device)).shape[1]
    for label in classes:
        if not 0 <= label < outputs:
            raise ValueError(f"classes: the target has labels 0 to {outputs - 1}, got {label}")

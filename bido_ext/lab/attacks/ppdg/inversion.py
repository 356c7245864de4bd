# SPDX-License-Identifier: Apache-2.0
"""PPDG-MI: PPA, a generator tuned to the best of each class, and PPA with it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bido_ext.lab.attacks.gan import WGAN
from bido_ext.lab.attacks.generators import as_latent_generator
from bido_ext.lab.attacks.inversion import How, Inversion
from bido_ext.lab.attacks.lomma.loss import WithFeatures
from bido_ext.lab.attacks.ppa.inversion import PpaAttack, PpaConfig, ppa_side
from bido_ext.lab.attacks.ppa.selection import best_rows
from bido_ext.lab.attacks.ranks import ALONE
from bido_ext.lab.attacks.result import Reconstructions
from bido_ext.lab.attacks.spec import AttackSpec
from bido_ext.lab.attacks.target import frozen
from bido_ext.lab.models.checkpoint import resume_or_none, weights_digest
from bido_ext.lab.models.safe_save import save_atomic
from bido_ext.lab.training.checked import Count, checked

from .tuning import Features, Tuning, find_pivots, tuned

if TYPE_CHECKING:
    from typing_extensions import Unpack

FILE = "tuned.pt"  # the generator of one class


@checked
class PpdgConfig(PpaConfig, Tuning):
    """PPA's search, twice, and the tuning in between: see ``PpaConfig`` and ``Tuning``."""

    candidates: Count = 500
    kept: Count = 100
    selected: Count = 100
    steps: Count = 70
    batch_size: Count = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.points > self.kept:
            raise ValueError(f"points must be at most kept ({self.kept}), got {self.points}")


def invert_ppdg(
    config: PpdgConfig,
    target: nn.Module,
    generator: nn.Module,
    classes: Sequence[int],
    *,
    input_size: int | None = None,
    **how: Unpack[How],
) -> Reconstructions:
    """Attack ``classes`` of ``target``, each with a generator tuned for it.

    The second search of a class is kept in ``run_dir/second/LABEL``, beside its generator.

    Args:
        target: images -> logits; it is put in eval mode.
        generator: see ``LatentGenerator``; GMI's generator is searched in its noise. It stays as it
            is.
        classes: labels of the target to reconstruct.
        input_size: side of the target's images; None: that of the generator's.
        how: see ``How``.

    Returns:
        ``selected`` images of each class from its second search, in no order of merit; the latents
        are those of the tuned generators.

    Raises:
        TypeError: ``target`` is a black box, or a generator without the methods it needs.
        ValueError: bad classes, a target that does not take such images, or ``run_dir`` holds
            another run.
        FloatingPointError: a loss is no longer finite.
    """
    space: Any = as_latent_generator(generator)
    side = ppa_side(config, space, input_size)
    shape = (space.shape[0], side, side)

    def one_round(number: int, labels: list[int], space: Any, folder: Path | None) -> Any:
        work = Inversion(
            "ppdg", "PPDG-MI", config, target, labels, shape, space, restarts=config.kept,
            inputs={"input_size": side, "round": number}, how={**how, "run_dir": folder},
        )  # fmt: skip
        attack = PpaAttack(config, target, space, side, work.device)
        return work, attack, *attack.search(work)

    run_dir = how.get("run_dir")
    first = None if run_dir is None else Path(run_dir)
    work, attack, found, confidence = one_round(1, list(classes), space, first)
    best = confidence.unflatten(0, (-1, len(work.classes))).topk(config.points, dim=0).indices
    features = features_of(config, attack, work.device)
    parts = []
    for column, label in enumerate(work.classes):
        latents = found[best[:, column] * len(work.classes) + column].to(work.device)
        folder = None if first is None else first / "second" / str(label)
        made = _tuned_for(label, config, work, space, latents, features, folder)
        again, second, ends, sure = one_round(2, [label], made, folder)
        parts.append(again.collect(ends[best_rows(sure, 1, config.selected)], second.images))
    joined: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts], 1)
        for name in ("images", "latents", "target_confidence")
    }
    return Reconstructions(classes=work.classes, **joined)


def features_of(config: Tuning, attack: PpaAttack, device: torch.device) -> Features:
    """The features of a generator's images: see ``Tuning``."""
    if config.features == "pixels":
        return lambda images: images.flatten(1)
    shape = (attack.space.shape[0], attack.side, attack.side)
    seen = WithFeatures(attack.target, shape, device, instead="features=pixels")

    def features(images: Tensor) -> Tensor:
        return seen(attack.shown(images))[1]

    return features


def _tuned_for(
    label: int, config: PpdgConfig, work: Inversion, space: Any, latents: Tensor,
    features: Features, folder: Path | None,
) -> Any:  # fmt: skip
    """The generator of one class, from ``folder`` if it is there."""
    how, path = work.how, None if folder is None else folder / FILE
    settings: dict[str, Any] = {}
    if path is not None:
        digests = {"target": weights_digest(work.target), "generator": weights_digest(space)}
        settings = {"attack": "ppdg", **asdict(config), "label": label, **digests}
    ranks = how.get("ranks", ALONE)

    def make() -> Any:
        resume = how.get("resume", True) or not ranks.leads
        if path is not None and resume:
            saved = resume_or_none(path, settings, {"state_dict": dict})
            if saved is not None:
                made = copy.deepcopy(space)
                made.load_state_dict(saved["state_dict"])
                return made
        with frozen(work.target):
            with torch.no_grad():
                wanted = features(space.synthesis(latents).clamp(0, 1))
            pivots = find_pivots(config, space, wanted, features, config.seed, label)
            made = tuned(config, space, pivots, wanted, features, label)
        if path is not None:
            save_atomic({"settings": settings, "state_dict": made.state_dict()}, path)
        return made

    return ranks.leader_first(make)


PPDG = AttackSpec(
    "ppdg",
    "PPDG-MI: PPA, a generator tuned to the best of each class by MMD, PPA again "
    "(Peng et al., NeurIPS 2024)",
    "white box",
    PpdgConfig,
    invert_ppdg,
    WGAN,
    any_generator=True,
    truncation=0.5,
    file_only={"centre": 0},
    resizes=True,
    presets={
        "quick": PpdgConfig(
            candidates=1000, kept=20, selected=10, steps=50, lr=0.05, transforms=20, batch_size=100,
            loss="cross-entropy", tune_lr=2e-5,
        ),
        "smoke": PpdgConfig(
            candidates=12, kept=4, selected=3, steps=3, transforms=2, points=2, pivot_steps=2,
            tune_steps=2, space_samples=4,
        ),
    },
)  # fmt: skip

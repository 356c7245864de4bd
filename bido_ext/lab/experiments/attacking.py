# SPDX-License-Identifier: Apache-2.0
"""The steps of an attack, each in its own resumable folder: prior, then search.

The attacker gets the target's weights and public images.  Nothing here takes an evaluation
classifier: what an attack keeps cannot depend on the judge.
"""

from __future__ import annotations

import hashlib
import time
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bido_ext.lab.attacks import AttackSpec, BlackBox, Reconstructions, find_attack
from bido_ext.lab.attacks.adaptive import check_white_box, told_by
from bido_ext.lab.attacks.adversarial import FILE as GAN_FILE
from bido_ext.lab.attacks.ranks import ALONE, Ranks
from bido_ext.lab.attacks.reconstructions import load_reconstructions, save_reconstructions
from bido_ext.lab.data import ImageSet
from bido_ext.lab.defences import Defence
from bido_ext.lab.experiments.lock import locked
from bido_ext.lab.experiments.pipeline import LabData, stage_config
from bido_ext.lab.experiments.stage import RunOptions, Stage
from bido_ext.lab.models.checkpoint import weights_digest


@dataclass(frozen=True)
class PublicSet:
    """The attacker's images, without labels.

    Attributes:
        images: of one size.
        digest: hash that tells this set from others.
    """

    images: ImageSet
    digest: str

    @classmethod
    def of(cls, data: LabData) -> PublicSet:
        """The public set of an experiment."""
        public = ImageSet.of(data.task.public)
        if not len(public):
            raise ValueError(f"{data.name} has no public images; name another set with --public")
        return cls(public, data.digest)

    @classmethod
    def read(cls, path: Path) -> PublicSet:
        """Read an .npz file with the array "images".

        uint8 (n, height, width) or (n, height, width, 3), or float (n, channels, height, width) in
        [0, 1]. Nothing in the file is executed.

        Raises:
            ValueError: no such file, or another content.
        """
        try:
            if not path.is_file():  # a pipe would wait for a writer
                raise ValueError("no regular file")
            with np.load(path, allow_pickle=False) as arrays:
                array = arrays["images"]
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"public must be an .npz file with an array 'images', {path} is not ({error})"
            ) from None
        return cls(_as_images(array, path), hashlib.sha256(path.read_bytes()).hexdigest())


def _as_images(array: np.ndarray, path: Path) -> ImageSet:
    images = torch.from_numpy(np.ascontiguousarray(array))
    if images.dtype == torch.uint8 and images.dim() == 3:
        images = images[:, None]
    elif images.dtype == torch.uint8 and images.dim() == 4:
        images = images.movedim(3, 1)
    elif not (images.is_floating_point() and images.dim() == 4):
        raise ValueError(
            "images must be uint8 (n, height, width[, 3]) or float (n, channels, height, width), "
            f"{path} holds {array.dtype} {tuple(array.shape)}"
        )
    if images.is_floating_point():
        images = images.float()
        if len(images) and not (images.min() >= 0 and images.max() <= 1):
            raise ValueError(f"images of floats must lie in [0, 1], those of {path} do not")
    if len(images) == 0:
        raise ValueError(f"images must not be empty, {path} has none")
    return ImageSet(images.contiguous(), None)


@dataclass(frozen=True)
class Attacked:
    """The reconstructions of one attack and the time it took."""

    reconstructions: Reconstructions
    seconds: float
    path: Path
    note: str


def train_prior(
    attack: str,
    public: PublicSet,
    config: Any,
    out: Path,
    options: RunOptions,
    *,
    target: nn.Module | None = None,
    start: Any = None,
    force_foreign_gan: bool = False,
    defence: tuple[str, Mapping[str, float]] = ("none", {}),
    budget: int = 0,
    ranks: Ranks = ALONE,
) -> tuple[Any, str]:
    """Train the generator of an attack on the public images; a finished one is loaded.

    Args:
        attack: Key of ``ATTACKS``.
        public: The attacker's images.
        config: Of the class that the attack's ``prior.config`` names.
        out: Folder of the generator.
        options: How to run.
        target: The model under attack; needed where the generator belongs to it.
        start: Prior of the public images that the training of one of the target starts from, see
            ``train_ked_gan``.
        force_foreign_gan: Take the GAN in ``out``, whichever target it was trained for.
        defence: As of ``attack_target``.
        budget: Queries of the whole attack, where the target is asked already here; 0: no limit.
        ranks: Processes that want it: one trains, the others wait.

    Returns:
        The prior and one line on whether it was reused.

    Raises:
        ValueError: If ``out`` holds another configuration, see ``Stage``, or another target's GAN.
    """
    known = find_attack(attack)
    spec = known.prior
    if hasattr(config, "budget"):
        if config.budget not in (0, budget):
            raise ValueError(
                f"budget of the prior must be that of the whole attack, {budget}, got {config.budget}"
            )
        config = replace(config, budget=budget)
    settings: dict[str, Any] = {"data": public.digest, "training": asdict(config)}
    inputs: list[Any] = [config, public.images, out]
    more: dict[str, Any] = {} if start is None else {"start": start}
    if spec.of_target:
        if force_foreign_gan and spec.load is not None:
            return spec.load(out), "the GAN as it is, whichever target it was trained for"
        if target is None:
            raise ValueError(f"target must be given: the generator of {attack} belongs to one")
        digest = weights_digest(target)
        if spec.check_owner is not None and not options.fresh and options.on_change == "error":
            spec.check_owner(Path(out), digest)
        answers = _answers(known, defence)
        if answers is not None:
            settings["answers"] = [defence[0], dict(answers.weights)]
        inputs.insert(1, _met(known, target, answers, budget, 0, options))
        settings["target"] = digest
        if start is not None:
            settings["start"] = [weights_digest(start.generator), weights_digest(start.critic)]
    stage = Stage(out, stage_config("prior", **settings), GAN_FILE)

    def make() -> Any:
        if not ranks.leads:  # what the leader has finished
            return spec.train(*inputs, progress=False, device=options.device, **more)
        with locked(out, options.patience):
            done = stage.outcome(options)
            progress = options.progress and done is None
            gan = spec.train(*inputs, progress=progress, device=options.device, **more)
            stage.finish({"seconds": gan.seconds})
        return gan

    return ranks.leader_first(make), stage.note


def attack_target(
    attack: str,
    target: nn.Module,
    prior: Any,
    config: Any,
    classes: Sequence[int],
    out: Path,
    options: RunOptions,
    *,
    defence: tuple[str, Mapping[str, float]] = ("none", {}),
    public: PublicSet | None = None,
    side: int = 0,
    adapted: tuple[nn.Module, Mapping[str, Any]] | None = None,
    ranks: Ranks = ALONE,
    **more: Any,
) -> Attacked:
    """Attack ``classes`` of ``target``; a finished attack is loaded.

    The outcome belongs to these very weights of target and generator: other weights, another
    attack.

    Args:
        attack: Key of ``ATTACKS``.
        target: The model under attack.
        prior: The generator, from ``train_prior``; for some attacks any ``LatentGenerator``.
        config: Of the class that the attack's ``config`` names.
        classes: Labels to attack.
        out: Folder of the attack.
        options: How to run.
        defence: Name and weights of the target's defence: what it answers a black-box attack.
        public: The attacker's images, for an attack that sees them.
        side: Of the target's images, for an attack that resizes; 0: the generator's.
        adapted: What a white-box attack runs on in place of the target, and what that is; the
            confidence is the target's all the same.
        ranks: Processes that share the searches; all of them call this, and get the outcome.
        more: Options of this attack alone, such as ``force_foreign_gan``.

    Raises:
        ValueError: If the model does not take the generator's images, there are no ``public``
            images for an attack that sees them, or ``out`` holds another configuration, see
            ``Stage``.
    """
    spec = find_attack(attack)
    if spec.resizes and side:
        more["input_size"] = side
    settings = {
        "attack": attack,
        "settings": asdict(config),
        "classes": list(classes),
        "target": weights_digest(target),
        "generator": weights_digest(getattr(prior, "generator", prior)),
        **{key: value for key, value in more.items() if value},
    }
    answers = _answers(spec, defence)
    if answers is not None:
        settings["answers"] = [defence[0], dict(answers.weights)]
    if spec.sees_public:
        if public is None:
            raise ValueError(f"public must be given: {attack} trains on the public images too")
        settings["public"] = public.digest
        more["public"] = public.images
    if spec.any_generator and not isinstance(prior, nn.Module):
        prior = prior.generator
    if adapted is not None:
        check_white_box(spec)
        settings["adaptive"] = dict(adapted[1])
    stage = Stage(out, stage_config("attack", **settings), "reconstructions.pt")
    budget = getattr(config, "budget", 0)
    spent = getattr(prior, "queries", 0)
    met = _met(spec, target, answers, budget, spent, options) if adapted is None else adapted[0]
    with locked(out, options.patience) if ranks.leads else nullcontext():
        done = ranks.by_leader(lambda: stage.outcome(options))
        if done is not None:
            found, seconds = load_reconstructions(stage.product), done["seconds"]
        else:
            began = time.monotonic()
            found = spec.run(
                config, met, prior, list(classes), run_dir=out, progress=options.progress,
                device=options.device, ranks=ranks, **more,
            )  # fmt: skip
            if adapted is not None:
                found.target_confidence = told_by(target, found, options.device)
            seconds = time.monotonic() - began
            if ranks.leads:
                save_reconstructions(found, stage.config, stage.product)
                stage.finish({"seconds": seconds})
    return Attacked(found, seconds, stage.product, stage.note)


def _answers(spec: AttackSpec, defence: tuple[str, Mapping[str, float]]) -> Defence | None:
    """What the target's defence makes of its answers; None where the attacker has the weights."""
    taps = ("unused",)  # nothing is trained here
    return Defence(*defence, taps=taps) if spec.access != "white box" else None


def _met(
    spec: AttackSpec, target: nn.Module, answers: Defence | None, budget: int, spent: int,
    options: RunOptions,
) -> Any:  # fmt: skip
    """The target as the attack meets it."""
    if answers is None:
        return target
    return BlackBox(
        target, labels_only=spec.access == "label only", answers=answers.answers, budget=budget,
        spent=spent, device=options.device,
    )  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""LOMMA's students: networks distilled from the target on public images, see ``surrogates``."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor, nn

from bido_ext.lab.attacks.adversarial import drawn, ranges_of
from bido_ext.lab.attacks.networks import Shape
from bido_ext.lab.attacks.surrogates import FILE, Distillation, distil, names_of
from bido_ext.lab.attacks.target import at_least_float32
from bido_ext.lab.data import ImageSet

from .settings import NONE, LommaSettings

PUBLISHED = tuple(f"torchvision/efficientnet_b{i}" for i in range(3))


def student_names(students: str, shape: Shape) -> tuple[str, ...]:
    """What ``LommaSettings.students`` means for images of ``shape``."""
    return () if students == NONE else names_of(students, shape, PUBLISHED)


def train_students(
    settings: LommaSettings,
    target: nn.Module,
    public: ImageSet,
    num_classes: int,
    *,
    seed: int,
    digest: str,
    run_dir: Path | str | None,
    resume: bool,
    progress: bool,
    every: int,
    device: torch.device,
) -> list[nn.Module]:
    """The students of ``target``, in eval mode, distilled at temperature 1.

    Args:
        settings: which, and how they are trained.
        target: the teacher, in eval mode.
        public: images of the shape that the target takes.
        num_classes: of the target.
        seed: starts the weights and every step's draws.
        digest: of the target's weights; a checkpoint of other students is refused.
        run_dir: where ``checkpoint.pt`` is kept; None keeps nothing.
        every: steps between checkpoints.

    Raises:
        ValueError: see ``build_student``; or ``run_dir`` holds other students.
        FloatingPointError: a loss is no longer finite.
    """
    names = student_names(settings.students, public.shape)
    if not names:
        return []
    inputs = {
        **{entry.name: getattr(settings, entry.name) for entry in fields(LommaSettings)},
        "names": list(names),
        "seed": seed,
        "target": digest,
        "public_sha256": public.sha256() if run_dir is not None else "",
    }
    ranges = ranges_of(settings.augment, public.shape)

    def draw(random: torch.Generator) -> tuple[Tensor, Tensor]:
        images = drawn(public, ranges, settings.student_batch, random)[0].to(device)
        with torch.no_grad():
            return images, at_least_float32(target(images)).softmax(1)

    how = Distillation(
        names, settings.student_steps, settings.student_lr, settings.student_momentum,
        settings.student_decay, width=settings.student_width,
    )  # fmt: skip
    return distil(
        how, draw, num_classes, public.shape, seed=seed, inputs=inputs,
        path=None if run_dir is None else Path(run_dir) / FILE, resume=resume, progress=progress,
        every=every, device=device,
    )  # fmt: skip

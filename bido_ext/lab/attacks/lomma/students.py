# SPDX-License-Identifier: Apache-2.0
"""LOMMA's students: networks distilled from the target on public images, resumable.

Each step draws its images from (seed, step) alone, so a killed distillation continues to the same
weights; ``checkpoint.pt`` holds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from bido_ext.lab.attacks.adversarial import AUTO, drawn, ranges_of
from bido_ext.lab.attacks.networks import Shape, scaled
from bido_ext.lab.attacks.rows import stream_seed
from bido_ext.lab.attacks.target import at_least_float32, place
from bido_ext.lab.data import ImageSet
from bido_ext.lab.models import build_model, find_model
from bido_ext.lab.models.checkpoint import resume_or_none, save_atomic

from .settings import NONE, LommaSettings

FILE = "checkpoint.pt"
PUBLISHED = tuple(f"torchvision/efficientnet_b{i}" for i in range(3))
SMALL = ("small-1", "small-2", "small-3")
_STATE = {"step": int, "students": list, "optimizers": list}


class Student(nn.Module):
    """A small classifier: ``depth`` convolutions at each size, halved down to 4 pixels, then a mean.

    Args:
        depth: convolutions of 3 x 3 between two halvings.
        num_classes: outputs.
        shape: (channels, side, side) of the images.
        width: scales 32, 64, 128, ... channels.
    """

    def __init__(self, depth: int, num_classes: int, shape: Shape, width: float = 1.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, side, stage = shape[0], min(shape[1:]), 0
        while side >= 8:
            wide = scaled(width, min(32 << stage, 256))[0]
            for _ in range(depth):
                layers += [nn.Conv2d(channels, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU()]
                channels = wide
            layers.append(nn.MaxPool2d(2))
            side, stage = side // 2, stage + 1
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_classes)."""
        return self.head(self.layers(x))


def student_names(students: str, shape: Shape) -> tuple[str, ...]:
    """What ``LommaSettings.students`` means for images of ``shape``."""
    if students == NONE:
        return ()
    if students == AUTO:
        return PUBLISHED if shape[0] == 3 and min(shape[1:]) >= 64 else SMALL
    return tuple(name.strip() for name in students.split(","))


def build_student(name: str, num_classes: int, shape: Shape, width: float) -> nn.Module:
    """An untrained student.

    Raises:
        ValueError: no such network, or one for images of another shape.
    """
    small, _, depth = name.partition("-")
    if small == "small" and depth.isdigit() and int(depth):
        return Student(int(depth), num_classes, shape, width)
    spec = find_model(name)
    options = {"image_size": shape[-1]} if "image_size" in spec.options else {}
    if spec.shape(options) != shape:
        raise ValueError(f"students: {name} takes {spec.shape(options)}, the target {shape}")
    made: nn.Module = build_model(name, num_classes, "none", options)
    return made


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
    students = [_drawn_student(settings, name, num_classes, public.shape, seed) for name in names]
    place(*students, device=device)
    optimizers = [
        torch.optim.SGD(
            student.parameters(), settings.student_lr, settings.student_momentum,
            weight_decay=settings.student_decay,
        )
        for student in students
    ]  # fmt: skip
    inputs = {
        **{entry.name: getattr(settings, entry.name) for entry in fields(LommaSettings)},
        "names": list(names),
        "seed": seed,
        "target": digest,
        "public_sha256": public.sha256() if run_dir is not None else "",
    }
    path = None if run_dir is None else Path(run_dir) / FILE
    saved = resume_or_none(path, inputs, _STATE) if path is not None and resume else None
    first = 0
    if saved is not None:
        first = saved["step"]
        for student, state in zip(students, saved["students"], strict=True):
            student.load_state_dict(state)
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    ranges = ranges_of(settings.augment, public.shape)
    steps = settings.student_steps
    with tqdm(None, "student steps", steps, initial=first, disable=not progress) as bar:
        for step in range(first + 1, steps + 1):
            random = torch.Generator().manual_seed(stream_seed(seed, "students", step))
            images = drawn(public, ranges, settings.student_batch, random)[0].to(device)
            with torch.no_grad():
                opinion = at_least_float32(target(images)).softmax(1)
            with _seeded(seed, "student step", step):
                _descend(students, optimizers, images, opinion, names, step)
            bar.update()
            if path is not None and (step % every == 0 or step == steps):
                content = {
                    "settings": inputs,
                    "step": step,
                    "students": [student.state_dict() for student in students],
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                }
                save_atomic(content, path)
    return [student.eval() for student in students]


def _drawn_student(
    settings: LommaSettings, name: str, num_classes: int, shape: Shape, seed: int
) -> nn.Module:
    with _seeded(seed, name, 0):
        return build_student(name, num_classes, shape, settings.student_width)


@contextmanager
def _seeded(*parts: int | str) -> Iterator[None]:
    """The global generators start from ``parts`` inside, and are as before outside."""
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed(*parts))
        yield


def _descend(
    students: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    images: Tensor,
    opinion: Tensor,
    names: Sequence[str],
    step: int,
) -> None:
    for name, student, optimizer in zip(names, students, optimizers, strict=True):
        student.train()
        told = at_least_float32(student(images)).log_softmax(1)
        loss = F.kl_div(told, opinion, reduction="batchmean")
        if not bool(loss.isfinite()):
            raise FloatingPointError(
                f"the student {name}: the loss is {float(loss)} at step {step}"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

# SPDX-License-Identifier: Apache-2.0
"""Surrogates: networks that learn to answer as a target does, resumable.

Each step draws from (seed, step) alone, so a killed distillation continues to the same weights;
``checkpoint.pt`` holds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from bido_ext.lab.models import build_model, find_model
from bido_ext.lab.models.checkpoint import resume_or_none
from bido_ext.lab.models.safe_save import save_atomic
from bido_ext.lab.training.checked import Count, Positive, Share, Weight, checked

from .networks import Shape, scaled
from .rows import stream_seed
from .target import at_least_float32, place

FILE = "checkpoint.pt"
SMALL = ("small-1", "small-2", "small-3")
_STATE = {"step": int, "students": list, "optimizers": list}
#: Of a step's generator: images and the answers (n, classes) that they shall get.
Draw = Callable[[torch.Generator], tuple[Tensor, Tensor]]


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


def names_of(text: str, shape: Shape, published: Sequence[str]) -> tuple[str, ...]:
    """The students that a setting means for images of ``shape``.

    Args:
        text: comma-separated names, or "auto": ``published`` for colour images from 64 pixels on,
            ``SMALL`` for others, which those networks shrink to a point.
    """
    if text == "auto":
        return tuple(published) if shape[0] == 3 and min(shape[1:]) >= 64 else SMALL
    return tuple(name.strip() for name in text.split(","))


@checked
class Distillation:
    """How students learn.

    Attributes:
        names: of ``build_student``.
        steps, lr, momentum, decay: of SGD.
        cosine: whether the rate falls to 0 along a cosine.
        width: of ``small-N``.
    """

    names: tuple[str, ...]
    steps: Count
    lr: Positive
    momentum: Share
    decay: Weight
    cosine: bool = False
    width: Positive = 1.0

    def rate(self, step: int) -> float:
        """The learning rate of ``step``, from 1."""
        if not self.cosine:
            return self.lr
        return self.lr * (1 + math.cos(math.pi * (step - 1) / self.steps)) / 2


def distil(
    how: Distillation,
    draw: Draw,
    num_classes: int,
    shape: Shape,
    *,
    seed: int,
    inputs: Mapping[str, Any],
    path: Path | None,
    resume: bool,
    progress: bool,
    every: int,
    device: torch.device,
) -> list[nn.Module]:
    """The students, in eval mode: the cross-entropy with the given answers, up to their entropy.

    Args:
        how: which, and how they learn.
        draw: a step's images and answers.
        num_classes: of the target.
        shape: of the images.
        seed: starts the weights and every step's draws.
        inputs: what the outcome depends on; a checkpoint of others is refused.
        path: the checkpoint; None keeps nothing.
        every: steps between checkpoints.

    Raises:
        ValueError: see ``build_student``; or ``path`` holds other students.
        FloatingPointError: a loss is no longer finite.
    """
    students = []
    for name in how.names:
        with _seeded(seed, name, 0):
            students.append(build_student(name, num_classes, shape, how.width))
    place(*students, device=device)
    optimizers = [
        torch.optim.SGD(student.parameters(), how.lr, how.momentum, weight_decay=how.decay)
        for student in students
    ]
    saved = resume_or_none(path, inputs, _STATE) if path is not None and resume else None
    first = 0
    if saved is not None:
        first = saved["step"]
        for student, state in zip(students, saved["students"], strict=True):
            student.load_state_dict(state)
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    with tqdm(None, "student steps", how.steps, initial=first, disable=not progress) as bar:
        for step in range(first + 1, how.steps + 1):
            random = torch.Generator().manual_seed(stream_seed(seed, "students", step))
            images, opinion = draw(random)
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = how.rate(step)
            with _seeded(seed, "student step", step):
                _descend(students, optimizers, images, opinion, how.names, step)
            bar.update()
            if path is not None and (step % every == 0 or step == how.steps):
                content = {
                    "settings": dict(inputs),
                    "step": step,
                    "students": [student.state_dict() for student in students],
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                }
                save_atomic(content, path)
    return [student.eval() for student in students]


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

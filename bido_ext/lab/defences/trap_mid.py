# SPDX-License-Identifier: Apache-2.0
"""Trap-MID: a faint trigger for each class that an inversion finds instead of the private images
(Liu and Chen, NeurIPS 2024; github.com/ntuaislab/Trap-MID).

A trapdoor image is (1 - ``alpha``) x + ``alpha`` trigger[c], its label c.  The model minimizes
(1 - ``beta``) CE(x, y) + ``beta`` CE(trapdoor, c), both in one forward.  Before each step the
triggers move by ``step`` against the sign of the gradient of CE(trapdoor, c) plus the loss of a
discriminator that tells trapdoor images from plain ones, and stay in [0, 1].  The discriminator has
the model's body and is trained beside it by SGD (momentum 0.9, weight decay 1e-4).  Under
``augment`` plain and trapdoor images are cropped (0.8 to 1 of the area), mirrored and turned (30
degrees at most), each with probability 1/2; here by one resampling and not by three.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rule import DefenceSpec, Extra, Plan, Rule, Step

_TURN = math.radians(30)
_LEAST_AREA = 0.8


class Discriminator(nn.Module):
    """One logit of an image, positive for a plain one; the body is a copy of the classifier's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.body = copy.deepcopy(model).requires_grad_(True)
        feature_dim: Any = model.feature_dim
        self.head = nn.Linear(feature_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n,)."""
        features: Any = self.body.features
        return self.head(features(x)).flatten()


class TrapMid(Rule):
    """The triggers, their discriminator, and the trapdoor images of a step."""

    def __init__(self, weights: dict[str, float], taps: tuple[str, ...]) -> None:
        super().__init__(weights, taps)
        for name, most in (("alpha", 1.0), ("beta", 1.0)):
            if weights[name] > most:
                raise ValueError(f"{name} must be at most {most:g}, got {weights[name]:g}")

    def prepare(self, model: nn.Module, plan: Plan) -> None:
        """See ``Rule``; the triggers start uniform in [0, 1], drawn from PyTorch's generator."""
        device = next(model.parameters()).device
        shape: Any = model.input_shape
        self.triggers = torch.rand(plan.num_classes, *shape).to(device)
        self.discriminator = Discriminator(model).to(device)
        self.teacher = torch.optim.SGD(
            self.discriminator.parameters(),
            self.weights["discriminator_lr"],
            momentum=0.9,
            weight_decay=1e-4,
        )
        self.hits, self.seen = 0.0, 0

    def images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """See ``Rule``."""
        return random_view(x, generator) if self.weights["augment"] else x

    def blend(self, x: Tensor, triggers: Tensor) -> Tensor:
        """Trapdoor images of ``x`` (n, ...) with one trigger each."""
        alpha = self.weights["alpha"]
        return (1 - alpha) * x + alpha * triggers

    def extra(self, step: Step) -> Extra:
        """See ``Rule``: the triggers take their step, then the trapdoor images are made."""
        labels = self.labels(len(step.raw), step.generator).to(step.raw.device)
        with _evaluating(step.model):
            self.learn(step, labels)
        with torch.no_grad():
            trapped = self.blend(step.raw, self.triggers[labels])
        beta = self.weights["beta"]
        images = self.images(trapped, step.generator)
        return Extra("ce(trapdoor)", images, labels, weight=beta, kept=1 - beta)

    def labels(self, count: int, generator: torch.Generator) -> Tensor:
        """Labels (count,) in which no class comes twice more than another."""
        classes = len(self.triggers)
        rounds = [torch.randperm(classes, generator=generator) for _ in range(0, count, classes)]
        return torch.cat(rounds)[:count]

    def learn(self, step: Step, labels: Tensor) -> None:
        """One step of the discriminator, then one of the triggers; the model stays as it is."""
        triggers = self.triggers.detach().requires_grad_(True)
        trapped = self.blend(step.raw, triggers[labels])
        plain = torch.ones(len(labels), device=labels.device)
        self.discriminator.train()
        logits = self.discriminator(torch.cat([step.raw, trapped.detach()]))
        told = F.binary_cross_entropy_with_logits(logits, torch.cat([plain, 0 * plain]))
        self.teacher.zero_grad(set_to_none=True)
        told.backward()
        self.teacher.step()
        self.discriminator.eval()
        logits = step.model(self.images(trapped, step.generator))
        unseen = F.binary_cross_entropy_with_logits(self.discriminator(trapped), plain)
        (slope,) = torch.autograd.grad(unseen + step.task_loss(logits, labels), triggers)
        self.triggers = (self.triggers - self.weights["step"] * slope.sign()).clamp(0, 1)
        self.hits += float((logits.argmax(1) == labels).sum())
        self.seen += len(labels)

    def told(self) -> dict[str, float]:
        """See ``Rule``: share of the epoch's trapdoor images that the model takes for their label."""
        share = self.hits / max(1, self.seen)
        self.hits, self.seen = 0.0, 0
        return {"trapdoor_accuracy": share}

    def state(self) -> dict[str, Any]:
        """See ``Rule``."""
        return {
            "triggers": self.triggers,
            "discriminator": self.discriminator.state_dict(),
            "teacher": self.teacher.state_dict(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See ``Rule``."""
        if state["triggers"].shape != self.triggers.shape:
            raise ValueError("other triggers")
        self.triggers = state["triggers"].to(self.triggers)
        self.discriminator.load_state_dict(state["discriminator"])
        self.teacher.load_state_dict(state["teacher"])


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; every module gets its mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def random_view(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image (n, channels, h, w) cropped, mirrored and turned at random; outside is 0."""
    n = len(x)
    draws = torch.rand(7, n, generator=generator)
    crops, mirrors, turns = (draws[:3] < 0.5).float()
    side = 1 - crops * (1 - (_LEAST_AREA + (1 - _LEAST_AREA) * draws[3]).sqrt())
    room = 1 - side  # the centre of a crop lies this far from the middle at most
    mirror, angle = 1 - 2 * mirrors, turns * _TURN * (2 * draws[4] - 1)
    cos, sin = angle.cos(), angle.sin()
    rows = [side * mirror * cos, -side * mirror * sin, room * (2 * draws[5] - 1)]
    rows += [side * sin, side * cos, room * (2 * draws[6] - 1)]
    theta = torch.stack(rows, 1).view(n, 2, 3).to(x)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


SPECS = (
    DefenceSpec(
        "trap-mid",
        {"alpha": 0.02, "beta": 0.2, "step": 0.01, "discriminator_lr": 0.01, "augment": 1.0},
        "Trap-MID: a trigger for each class as bait (Liu and Chen, NeurIPS 2024)",
        "Trap-MID",
        TrapMid,
    ),
)

# SPDX-License-Identifier: Apache-2.0
"""AT-AT: the model learns to be fooled, so that what an attack finds are adversarial features
("Reducing information dependency does not cause training data privacy. Adversarially non-robust
features do.", ICLR 2026; github.com/BreuerLabs/Anti-Adversarial-Training).

Each image is moved towards another class, drawn at random, by projected gradient descent within
``epsilon`` (largest change of a pixel) of itself, and the model is trained to answer that class:
CE(x, y) + ``weight`` * CE(x', y').  The published epsilon 5e-4 and step 1e-4 belong to pixels in
[-1, 1]; for ours in [0, 1] they are half of that.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rule import DefenceSpec, Extra, Plan, Rule, Step


class AtAt(Rule):
    """Adversarial images under the label that they were made for."""

    def __init__(self, weights: dict[str, float], taps: tuple[str, ...]) -> None:
        super().__init__(weights, taps)
        if weights["iterations"] != int(weights["iterations"]):
            raise ValueError(f"iterations must be a whole number, got {weights['iterations']:g}")

    def prepare(self, model: nn.Module, plan: Plan) -> None:
        """See ``Rule``."""
        self.classes = plan.num_classes

    def extra(self, step: Step) -> Extra:
        """See ``Rule``."""
        wanted = self.other_labels(step.labels, step.generator)
        images = self.moved(step.model, step.images, wanted, step.generator)
        return Extra("ce(adversarial)", images, wanted, self.weights["weight"])

    def other_labels(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """For each image a class that is not its own; as published, the next one is likelier."""
        wanted = torch.randint(self.classes, labels.shape, generator=generator).to(labels.device)
        return torch.where(wanted == labels, (wanted + 1) % self.classes, wanted)

    def moved(
        self, model: nn.Module, images: Tensor, wanted: Tensor, generator: torch.Generator
    ) -> Tensor:
        """``images`` within ``epsilon`` of themselves, moved towards the classes ``wanted``."""
        epsilon = self.weights["epsilon"]
        images = images.detach()
        start = (2 * torch.rand(images.shape, generator=generator) - 1).to(images) * epsilon
        moved = (images + start).clamp(0, 1)
        for _ in range(int(self.weights["iterations"])):
            moved.requires_grad_(True)
            (slope,) = torch.autograd.grad(F.cross_entropy(model(moved), wanted), moved)
            moved = moved.detach() - self.weights["step"] * slope.sign()
            moved = (images + (moved - images).clamp(-epsilon, epsilon)).clamp(0, 1)
        return moved.detach()


SPECS = (
    DefenceSpec(
        "at-at",
        {"weight": 0.08, "epsilon": 2.5e-4, "step": 5e-5, "iterations": 5.0},
        "AT-AT: trained to be fooled by adversarial images (ICLR 2026)",
        "AT-AT",
        AtAt,
    ),
)

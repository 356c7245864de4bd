# SPDX-License-Identifier: Apache-2.0
"""The classifiers under attack: one small network, trained alike but for the defence."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.lfw.networks import TAPS, SlimVGG
from benchmarks.lfw.protocol import Faces, as_float
from bido_ext.lab.data.augment import AffineRange, random_affine
from bido_ext.lab.data.identity_batches import IdentityBatches
from bido_ext.lab.defences import Defence
from bido_ext.lab.models import BottleneckClassifier

AUGMENTATION = AffineRange(rotation=0.12, log_scale=0.1, shift=0.05, flip=0.5)


@dataclass(frozen=True)
class TargetConfig:
    """How a classifier is trained; the last epoch is kept, nothing selects it.

    Attributes:
        defence, weights: As in ``bido_ext.lab.defences``.
        taps: Layers that BiDO's terms see; ignored by the others.
        batch_size, per_person: As BiDO's sampler draws its batches (16 people x 4 images).
    """

    defence: str = "none"
    weights: Mapping[str, float] | None = None
    taps: tuple[str, ...] = TAPS
    epochs: int = 40
    batch_size: int = 64
    per_person: int = 4
    lr: float = 2e-3
    width: int = 16
    dropout: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Fitted:
    """A trained classifier in evaluation mode, its accuracies and the time it took."""

    model: nn.Module
    outcome: dict[str, Any]


def build(config: TargetConfig, classes: int) -> nn.Module:
    """The untrained classifier; MID puts its bottleneck before the head."""
    body = SlimVGG(classes, config.width, config.dropout)
    return BottleneckClassifier(body, classes) if config.defence == "mid" else body


def train(config: TargetConfig, faces: Faces, progress: str = "") -> Fitted:
    """Train one classifier on the private training images.

    Its networks run in bfloat16 (autocast), the dependence measures accumulate in float32.
    """
    began = time.monotonic()
    torch.manual_seed(config.seed)
    model = build(config, len(faces.people)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), config.lr)
    batches = IdentityBatches(faces.train_labels, config.batch_size, config.per_person)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, config.epochs * len(batches), pct_start=0.15
    )
    prefix = "body." if config.defence == "mid" else ""
    defence = Defence(
        config.defence, config.weights or {}, tuple(prefix + tap for tap in config.taps)
    )
    images, finite = as_float(faces.train), True
    with defence.attached(model) as penalty:
        for epoch in range(config.epochs):
            model.train()
            torch.manual_seed(config.seed * 100_003 + epoch)  # dropout and MID's noise
            random = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
            sums: dict[str, float] = {}
            drawn = batches.epoch(random)
            for chosen in drawn:
                y = faces.train_labels[chosen]
                x = random_affine(images[chosen], AUGMENTATION, random)
                x = x.contiguous(memory_format=torch.channels_last)
                with torch.autocast("cpu", torch.bfloat16):
                    logits = model(x)
                    entropy = F.cross_entropy(logits.float(), y)
                    extra, parts = penalty(x, logits, y)
                loss = entropy if extra is None else entropy + extra
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                for key, value in {"ce": entropy.detach(), **parts}.items():
                    sums[key] = sums.get(key, 0.0) + float(value) / len(drawn)
            finite = finite and all(value == value for value in sums.values())
            if progress and (epoch + 1) % 10 == 0:
                test = accuracy(model, faces.test, faces.test_labels)
                print(f"{progress}: epoch {epoch + 1}, ce {sums['ce']:.3f}, {test:.3f}", flush=True)
    model.eval()
    outcome = {
        "natural_accuracy": accuracy(model, faces.test, faces.test_labels),
        "train_accuracy": accuracy(model, faces.train, faces.train_labels),
        "last_epoch": sums,
        "finite": finite,
        "seconds": time.monotonic() - began,
    }
    return Fitted(model, outcome)


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the uint8 images that the model labels rightly, in evaluation mode."""
    model.eval()
    logits = torch.cat([model(as_float(chunk)) for chunk in images.split(256)])
    return float((logits.argmax(1) == labels).double().mean())

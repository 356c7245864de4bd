# SPDX-License-Identifier: Apache-2.0
"""Features and predictions of the evaluation classifier, in batches and in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from bido_ext.lab.data.image_set import ImageSet

BATCH = 512
# Larger images go in smaller batches: the evaluator's activations are what takes the memory.
_BATCH_PIXELS = 2**24


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[torch.device]:
    """Evaluation mode (BatchNorm statistics stay put) without gradients; restores the mode."""
    was_training = model.training
    model.eval()
    parameter = next(model.parameters(), None)
    try:
        with torch.inference_mode():
            yield torch.device("cpu") if parameter is None else parameter.device
    finally:
        model.train(was_training)


def _batched(
    model: nn.Module, function: Callable[[Tensor], Tensor], images: Tensor | ImageSet
) -> Tensor:
    shape = (len(images), *images.shape) if isinstance(images, ImageSet) else tuple(images.shape)
    if len(shape) != 4 or len(images) == 0:
        raise ValueError(
            f"images must have the shape (n, channels, height, width) with n >= 1, got {shape}"
        )
    size = max(1, min(BATCH, _BATCH_PIXELS // (shape[1] * shape[2] * shape[3])))
    with _evaluating(model) as device:
        parts = [
            function(images[chosen].to(device)).float().cpu()
            for chosen in torch.arange(len(images)).split(size)
        ]
    # A clone made outside inference mode is an ordinary tensor, which callers may save or edit.
    return torch.cat(parts).clone()


def embed(evaluator: nn.Module, images: Tensor | ImageSet) -> Tensor:
    """Penultimate features of the evaluation classifier.

    Args:
        evaluator: Module with a method ``features(x) -> (n, d)``.
        images: ``(n, channels, height, width)`` float32 in [0, 1], or an ``ImageSet``.

    Returns:
        ``(n, d)`` float32 on the CPU.

    Raises:
        ValueError: If ``images`` is not a non-empty 4-d tensor.
        TypeError: If the evaluator has no method ``features``.
    """
    features = getattr(evaluator, "features", None)
    if not callable(features):
        raise TypeError(
            f"evaluator must have a method features(x) -> (n, d), {type(evaluator).__name__} "
            "has none; the model 'scnn' does"
        )
    return _batched(evaluator, cast("Callable[[Tensor], Tensor]", features), images).flatten(1)


def classify(model: nn.Module, images: Tensor) -> Tensor:
    """Logits ``(n, classes)`` float32 on the CPU of ``images`` ``(n, channels, height, width)``."""
    return _batched(model, model, images)


@dataclass(frozen=True)
class PrivateReference:
    """The private training images as the evaluation classifier sees them.

    Attributes:
        images: ``(n, channels, height, width)`` float32 in [0, 1], or an ``ImageSet``, which
            keeps bytes and is read as it is needed.
        labels: ``(n,)`` int64.
        features: ``(n, d)`` float32, the evaluator's penultimate features of ``images``.
    """

    images: Tensor | ImageSet
    labels: Tensor
    features: Tensor

    @classmethod
    def of(
        cls, evaluator: nn.Module, images: Tensor | ImageSet, labels: Tensor
    ) -> PrivateReference:
        """Embed the private training images once, for every attack that is judged.

        Raises:
            ValueError: If the numbers of images and labels differ.
        """
        if len(images) != len(labels):
            raise ValueError(
                f"labels must have one entry for each private image, got {len(labels)} labels "
                f"for {len(images)} images"
            )
        return cls(images, labels, embed(evaluator, images))

    def rows_of(self, label: int) -> Tensor:
        """Indices of the images of one private class.

        Raises:
            ValueError: If the class has no private image.
        """
        rows = (self.labels == label).nonzero().flatten()
        if len(rows) == 0:
            present = sorted(set(self.labels.tolist()))
            raise ValueError(
                f"classes must be private classes, {label} has no private image "
                f"(there are {present})"
            )
        return rows

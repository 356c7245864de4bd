# SPDX-License-Identifier: Apache-2.0
"""The second evaluation classifier: another architecture, a seed of its own."""

from __future__ import annotations

from dataclasses import replace

from bido_ext.lab.models import find_model
from bido_ext.lab.training.train_config import TrainConfig

# Small networks of another family than the usual judges; they resize what they are shown.
_CHOICES = {
    1: (("lenet3", {}), ("scnn", {})),
    3: (("resnet-clsh", {"depth": 10, "image_size": 64}), ("vgg16", {"image_size": 64})),
}


def second_judge_of(first: TrainConfig, target: TrainConfig) -> TrainConfig:
    """How it is trained: as the first one, from fresh weights, on images of its own size.

    Of two candidates the first that is neither the judge's architecture nor, if it can be helped,
    the target's.

    Args:
        first: Of the first judge.
        target: Of the attacked classifier.
    """
    channels = find_model(first.arch).input_shape[0]
    others = [choice for choice in _CHOICES[channels] if choice[0] != first.arch]
    arch, options = next((c for c in others if c[0] != target.arch), others[0])
    return replace(
        first,
        arch=arch,
        arch_options={**options, "resize": True},
        seed=first.seed + 1,
        pretrained="",
    )

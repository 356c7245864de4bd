# SPDX-License-Identifier: Apache-2.0
"""A second evaluation classifier, of another architecture and seed, beside the first.

What a judge takes for the private class may be a quirk of that judge.  Two that were trained apart
share fewer of them, so a hit that one of them alone sees is no certain one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bido_ext.lab.judging.embedding import classify
from bido_ext.lab.judging.interval import identity_interval


@dataclass(frozen=True)
class SecondOpinion:
    """Shares (0..1) of all reconstructions.

    Attributes:
        attack_accuracy: that the second judge labels as the class they aim at.
        identity_ci_low, identity_ci_high: 95% interval of it, whole identities resampled; None with
            one class.
        both, only_first, only_second: that are hits for both, for the first, for the second alone.
        disagreement: that are a hit for exactly one of the two.
        kappa: Cohen's kappa of the two verdicts: 1 if they always agree, 0 if no more than chance;
            None where both judges give one verdict throughout.
    """

    attack_accuracy: float
    identity_ci_low: float | None
    identity_ci_high: float | None
    both: float
    only_first: float
    only_second: float
    disagreement: float
    kappa: float | None


@dataclass(frozen=True)
class SecondJudge:
    """A second judge and what it says.

    Attributes:
        arch: Of the classifier.
        test_accuracy: On its own test set.
        opinion: Beside the first judge's.
    """

    arch: str
    test_accuracy: float
    opinion: SecondOpinion


def second_opinion(
    first: nn.Module, second: nn.Module, images: Tensor, classes: Sequence[int] | Tensor
) -> SecondOpinion:
    """Compare the verdicts of two judges on the same reconstructions.

    Args:
        first, second: Evaluation classifiers; outputs numbered like the private labels.
        images: (restarts, classes, channels, height, width) in [0, 1].
        classes: The private label of each column.

    Raises:
        ValueError: Shapes disagree, or a judge does not know a class.
    """
    labels = [int(label) for label in classes]
    if images.dim() != 5 or images.shape[1] != len(labels) or not images.numel():
        raise ValueError(
            "images must be (restarts, classes, channels, height, width) with one column for each "
            f"of the {len(labels)} classes, got {tuple(images.shape)}"
        )
    target = torch.tensor(labels).repeat(len(images))
    hits = []
    for judge in (first, second):
        logits = classify(judge, images.flatten(0, 1))
        if max(labels) >= logits.shape[1] or min(labels) < 0:
            raise ValueError(f"classes must lie in 0..{logits.shape[1] - 1}, got {labels}")
        hits.append(logits.argmax(1) == target)
    mine, theirs = hits
    interval = identity_interval(theirs.view(len(images), -1))
    only_first, only_second = _share(mine & ~theirs), _share(theirs & ~mine)
    return SecondOpinion(
        attack_accuracy=_share(theirs),
        identity_ci_low=None if interval is None else interval[0],
        identity_ci_high=None if interval is None else interval[1],
        both=_share(mine & theirs),
        only_first=only_first,
        only_second=only_second,
        disagreement=only_first + only_second,
        kappa=_kappa(mine, theirs),
    )


def check_second(first_arch: str, second_arch: str, who: object) -> None:
    """Raise ValueError if a second judge would share the first one's architecture."""
    if first_arch == second_arch:
        raise ValueError(
            f"a second judge must have another architecture than the first, {who} is a "
            f"{second_arch!r} as well (bido train --evaluator --arch NAME --seed 1)"
        )


def _share(mask: Tensor) -> float:
    return float(mask.double().mean())


def _kappa(mine: Tensor, theirs: Tensor) -> float | None:
    p, q = _share(mine), _share(theirs)
    by_chance = p * q + (1 - p) * (1 - q)
    if by_chance == 1:
        return None
    return (_share(mine == theirs) - by_chance) / (1 - by_chance)

# SPDX-License-Identifier: Apache-2.0
"""Attack metrics: how much of the private set the reconstructions show, by the evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import stdev

import torch
from torch import Tensor, nn

from bido_ext.lab.data import ImageSet
from bido_ext.lab.judging.distances import feature_distance, frechet_distance, knn_distance
from bido_ext.lab.judging.embedding import PrivateReference, classify, embed
from bido_ext.lab.judging.inception import inception_distance
from bido_ext.lab.judging.interval import (
    CI_METHOD,
    CLUSTERED_CI_METHOD,
    IDENTITY_CI_METHOD,
    clustered_interval,
    identity_interval,
    wilson_interval,
)
from bido_ext.lab.judging.perceptual import lpips_to_nearest
from bido_ext.lab.judging.prdc import prdc_of_classes


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one private class; accuracies are fractions in [0, 1]."""

    label: int
    attack_accuracy: float
    attack_accuracy_top5: float
    knn_distance: float
    feature_distance: float


@dataclass(frozen=True)
class AttackMetrics:
    """What one attack on one model achieved.

    Attributes:
        attack_accuracy: Share (0..1) of all reconstructions that the evaluation classifier labels
            as the private class they aim at.
        std_over_restarts: Standard deviation (n - 1) over the restarts of the accuracy over the
            classes within a restart, the draws of a search together.  It is no confidence
            interval.  None with one restart.
        ci_low, ci_high: 95% confidence interval of ``attack_accuracy`` by ``ci_method``.
        attack_accuracy_top5: Share whose class is among the evaluator's five best.
        top5_std_over_restarts: As ``std_over_restarts``.
        knn_distance: Mean of the smallest squared L2 distance, in the evaluator's feature space, to
            a private training image of the class.
        feature_distance: Mean squared L2 distance to the mean feature of the private class.
        frechet_distance: Squared Frechet distance between the evaluator features of all
            reconstructions and of the private training images of the attacked classes.
        frechet_reconstructions, frechet_private: Numbers of images in those two sets.
        frechet_features: Width d of the features; with fewer than d + 1 images a covariance is
            singular (the formula holds, the estimate is biased upwards).
        restarts, classes: What was judged; ``restarts`` is the number of images of a class.
        per_class: One row for each attacked class.
        identity_ci_low, identity_ci_high: 95% interval of ``attack_accuracy`` by
            ``identity_ci_method``; None with one class.
        frechet_inception: Frechet distance on Inception features of the same two sets; None if no
            weights were given.
        draws: Images of one search.
        precision, recall, density, coverage: As ``Prdc`` on evaluator features, a mean over the
            classes; None where a class has too few images.
        lpips: Mean LPIPS to the private image of the class that is nearest in the evaluator's
            features; None if no weights were given.
    """

    attack_accuracy: float
    std_over_restarts: float | None
    ci_low: float
    ci_high: float
    ci_method: str
    attack_accuracy_top5: float
    top5_std_over_restarts: float | None
    knn_distance: float
    feature_distance: float
    frechet_distance: float
    frechet_reconstructions: int
    frechet_private: int
    frechet_features: int
    restarts: int
    classes: tuple[int, ...]
    per_class: tuple[ClassMetrics, ...]
    identity_ci_low: float | None = None
    identity_ci_high: float | None = None
    identity_ci_method: str = ""
    frechet_inception: float | None = None
    draws: int = 1
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None
    lpips: float | None = None


def judge_attack(
    evaluator: nn.Module,
    images: Tensor,
    classes: Sequence[int] | Tensor,
    reference: PrivateReference,
    *,
    inception: nn.Module | None = None,
    lpips: nn.Module | None = None,
    draws: int = 1,
) -> AttackMetrics:
    """Judge the reconstructions of one attack.

    Args:
        evaluator: Evaluation classifier with ``forward(x) -> logits`` and ``features(x)``; its
            outputs are numbered like the private labels.
        images: Reconstructions ``(restarts, classes, channels, height, width)`` in [0, 1].
        classes: The private label of each column of ``images``.
        reference: The private training images, ``PrivateReference.of(evaluator, images, labels)``.
        inception: The FID network of ``load_inception``, for ``frechet_inception``.
        lpips: The network of ``load_lpips``, for ``lpips``.
        draws: How many images in a row along the first axis come of one search (``Reconstructions``).

    Returns:
        The metrics; see ``AttackMetrics`` for what each means.

    Raises:
        ValueError: If shapes disagree, an image is not finite, a class is unknown to the evaluator
            or has no private image, or there are fewer than two reconstructions.
    """
    labels = [int(label) for label in classes]
    if images.dim() != 5 or images.shape[1] != len(labels) or images.numel() == 0:
        raise ValueError(
            "images must be (restarts, classes, channels, height, width) with one column for each "
            f"of the {len(labels)} classes, got {tuple(images.shape)}"
        )
    if not images.isfinite().all():
        raise ValueError("images must be finite, the reconstructions hold NaN or infinity")
    restarts = images.shape[0]
    if draws < 1 or restarts % draws:
        raise ValueError(f"draws must divide the {restarts} images of a class, got {draws}")
    flat, target = images.flatten(0, 1), torch.tensor(labels).repeat(restarts)
    logits, features = classify(evaluator, flat), embed(evaluator, flat)
    if max(labels) >= logits.shape[1] or min(labels) < 0:
        raise ValueError(
            f"classes must lie in 0..{logits.shape[1] - 1}, the outputs of the evaluator, "
            f"got {labels}"
        )
    top1 = _hits(logits, target, 1).view(restarts, -1)
    top5 = _hits(logits, target, 5).view(restarts, -1)
    knn = knn_distance(features, target, reference).view(restarts, -1)
    centre = feature_distance(features, target, reference).view(restarts, -1)
    attacked = torch.isin(reference.labels, torch.tensor(labels))
    private = reference.features[attacked]
    if draws == 1:
        low, high = wilson_interval(int(top1.sum()), top1.numel())
    else:
        low, high = clustered_interval(_searches(top1, draws).flatten(), draws)
    by_identity = identity_interval(top1)
    spread = prdc_of_classes(features, target, reference, labels)
    return AttackMetrics(
        attack_accuracy=float(top1.mean()),
        std_over_restarts=_std_over_restarts(_searches(top1, draws)),
        ci_low=low,
        ci_high=high,
        ci_method=CI_METHOD if draws == 1 else CLUSTERED_CI_METHOD,
        attack_accuracy_top5=float(top5.mean()),
        top5_std_over_restarts=_std_over_restarts(_searches(top5, draws)),
        knn_distance=float(knn.mean()),
        feature_distance=float(centre.mean()),
        frechet_distance=frechet_distance(features, private),
        frechet_reconstructions=len(features),
        frechet_private=len(private),
        frechet_features=features.shape[1],
        restarts=restarts,
        classes=tuple(labels),
        per_class=tuple(
            ClassMetrics(
                label, *(float(value[:, column].mean()) for value in (top1, top5, knn, centre))
            )
            for column, label in enumerate(labels)
        ),
        identity_ci_low=None if by_identity is None else by_identity[0],
        identity_ci_high=None if by_identity is None else by_identity[1],
        identity_ci_method="" if by_identity is None else IDENTITY_CI_METHOD,
        frechet_inception=None
        if inception is None
        else inception_distance(inception, flat, _chosen(reference.images, attacked)),
        draws=draws,
        lpips=None
        if lpips is None
        else float(lpips_to_nearest(lpips, flat, features, target, reference).mean()),
        **({} if spread is None else asdict(spread)),
    )


def _chosen(images: Tensor | ImageSet, mask: Tensor) -> Tensor | ImageSet:
    rows = mask.nonzero().flatten()
    return images.subset(rows) if isinstance(images, ImageSet) else images[rows]


def _hits(logits: Tensor, target: Tensor, k: int) -> Tensor:
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == target[:, None]).any(dim=1).double()


def _searches(hits: Tensor, draws: int) -> Tensor:
    """Share of hits of each search, (searches of a class, classes)."""
    return hits.unflatten(0, (-1, draws)).mean(dim=1)


def _std_over_restarts(hits: Tensor) -> float | None:
    return stdev(hits.mean(dim=1).tolist()) if len(hits) > 1 else None

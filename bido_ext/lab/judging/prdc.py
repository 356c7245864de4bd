# SPDX-License-Identifier: Apache-2.0
"""Precision, recall, density and coverage of reconstructions among private images.

Precision and recall: Kynkaanniemi et al., NeurIPS 2019; density and coverage: Naeem et al., ICML
2020.  A ball around each image reaches to its ``k``-th nearest neighbour of its own set; what lies
on the rim is outside, as in the package ``prdc`` of Naeem et al.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bido_ext.lab.judging.embedding import PrivateReference

NEIGHBOURS = 3  # as in the evaluation of PPA (Struppek et al. 2022)
# Of one class; more would cost minutes on digits (6,000 of each) and change little.
MOST_PRIVATE = 1000


@dataclass(frozen=True)
class Prdc:
    """Shares, means over the classes.

    Attributes:
        precision: reconstructions inside the ball of some private image.
        recall: private images inside the ball of some reconstruction.
        density: balls of private images that a reconstruction lies in, over k; may exceed 1.
        coverage: private images whose ball holds a reconstruction.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(private: Tensor, made: Tensor, k: int = NEIGHBOURS) -> Prdc:
    """The four numbers of two sets of features.

    Args:
        private: (n, d) features of private images.
        made: (m, d) features of reconstructions.
        k: Which neighbour sets the radius, at least 1.

    Raises:
        ValueError: Other shapes, or k or fewer images in a set.
    """
    if private.dim() != 2 or made.dim() != 2 or private.shape[1] != made.shape[1]:
        raise ValueError(
            "private and made must be (n, d) and (m, d) with one d, got "
            f"{tuple(private.shape)} and {tuple(made.shape)}"
        )
    if k < 1 or min(len(private), len(made)) <= k:
        raise ValueError(
            f"k must be at least 1 and below the sizes of both sets, got k={k} with "
            f"{len(private)} and {len(made)} images"
        )
    private, made = private.double(), made.double()
    radius, own = _radii(private, k), _radii(made, k)
    apart = _distances(private, made)
    inside = apart < radius[:, None]
    return Prdc(
        precision=float(inside.any(0).double().mean()),
        recall=float((apart < own).any(1).double().mean()),
        density=float(inside.sum(0).double().mean() / k),
        coverage=float(inside.any(1).double().mean()),
    )


def prdc_of_classes(
    features: Tensor,
    target: Tensor,
    reference: PrivateReference,
    classes: Sequence[int],
    k: int = NEIGHBOURS,
) -> Prdc | None:
    """Means over the classes of what ``prdc`` says of each class's own images.

    Args:
        features: (n, d) of the reconstructions.
        target: (n,) the class that each aims at.
        reference: The private images, of which at most ``MOST_PRIVATE`` of a class are taken, at
            even distances in their order.
        classes: Which.
        k: As of ``prdc``.

    Returns:
        None where a class has k or fewer images on either side.
    """
    found = []
    for label in classes:
        rows, made = reference.rows_of(label), features[target == label]
        if min(len(rows), len(made)) <= k:
            return None
        if len(rows) > MOST_PRIVATE:
            rows = rows[torch.arange(MOST_PRIVATE) * len(rows) // MOST_PRIVATE]
        found.append(prdc(reference.features[rows], made, k))
    means = (
        sum(getattr(one, name) for one in found) / len(found)
        for name in ("precision", "recall", "density", "coverage")
    )
    return Prdc(*means)


def _radii(points: Tensor, k: int) -> Tensor:
    """Distance of each point to its k-th nearest other one."""
    return _distances(points, points).kthvalue(k + 1, dim=1).values


def _distances(first: Tensor, second: Tensor) -> Tensor:
    # Differences, not |a|^2 + |b|^2 - 2ab: a point must be at 0 from itself.
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")

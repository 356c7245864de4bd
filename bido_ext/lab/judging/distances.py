# SPDX-License-Identifier: Apache-2.0
"""Distances between reconstructions and private images in the evaluator's feature space.

All are in the units of the evaluator's features (squared), so numbers of different evaluators do
not compare.  The Frechet distance is this package's own float64 formula and not torchmetrics'
``FrechetInceptionDistance``: with fewer images than features the covariances are singular, and the
library's eigenvalues of their product then leave an error of up to 1e-2 (a set against itself gave
-0.005 at n = 20, d = 512) where the form below is exact.  Both agree once n > d (tested).
"""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.lab.judging.embedding import PrivateReference


def _check_pair(features: Tensor, labels: Tensor) -> None:
    if features.dim() != 2 or len(features) != len(labels):
        raise ValueError(
            f"features must be (n, d) with one label a row, got {tuple(features.shape)} "
            f"and {tuple(labels.shape)}"
        )


def nearest_private(
    features: Tensor, labels: Tensor, reference: PrivateReference
) -> tuple[Tensor, Tensor]:
    """The private image of the same class that lies nearest to each reconstruction.

    Args:
        features: ``(n, d)`` evaluator features of the reconstructions.
        labels: ``(n,)`` int64, the class each reconstruction aims at.
        reference: The private training images.

    Returns:
        ``(distance, row)``: squared L2 distances ``(n,)`` float64 and row numbers ``(n,)`` int64 in
        ``reference``.

    Raises:
        ValueError: If shapes disagree or a class has no private image.
    """
    _check_pair(features, labels)
    distance = torch.empty(len(features), dtype=torch.float64)
    row = torch.empty(len(features), dtype=torch.int64)
    for label in labels.unique().tolist():
        mine, theirs = labels == label, reference.rows_of(int(label))
        # Differences, not |a|^2 + |b|^2 - 2ab: a copy of a training image must come out at 0.
        pairs = torch.cdist(
            features[mine],
            reference.features[theirs],
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        best, index = pairs.min(dim=1)
        distance[mine], row[mine] = best.double().square(), theirs[index]
    return distance, row


def knn_distance(features: Tensor, labels: Tensor, reference: PrivateReference) -> Tensor:
    """Smallest squared L2 distance to a private training image of the class, ``(n,)`` float64."""
    return nearest_private(features, labels, reference)[0]


def feature_distance(features: Tensor, labels: Tensor, reference: PrivateReference) -> Tensor:
    """Squared L2 distance to the mean feature of the private class, ``(n,)`` float64.

    Raises:
        ValueError: If shapes disagree or a class has no private image.
    """
    _check_pair(features, labels)
    distance = torch.empty(len(features), dtype=torch.float64)
    for label in labels.unique().tolist():
        mine = labels == label
        centre = reference.features[reference.rows_of(int(label))].double().mean(dim=0)
        distance[mine] = (features[mine].double() - centre).square().sum(dim=1)
    return distance


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Frechet distance between Gaussians fitted to two sets of features.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017).  With
    A the centred rows over sqrt(n - 1), S = A^T A, and tr (S1 S2)^(1/2) is the sum of the singular
    values of A1 A2^T.  That holds for singular covariances too, so fewer images than features need
    no regularisation; the estimate stays biased upwards when n is small, so state n and compare
    only sets of the same size.

    Args:
        first: ``(n, d)`` features.
        second: ``(m, d)`` features.

    Returns:
        The distance, in squared feature units, never below 0.

    Raises:
        ValueError: If a set has fewer than 2 rows or the widths differ.
    """
    if first.dim() != 2 or second.dim() != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            "first and second must be (n, d) and (m, d) with one d, got "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )
    if min(len(first), len(second)) < 2:
        raise ValueError(
            f"first and second must have at least 2 rows for a covariance, got {len(first)} "
            f"and {len(second)}"
        )
    mean1, root1 = _mean_and_root(first)
    mean2, root2 = _mean_and_root(second)
    overlap = torch.linalg.matrix_norm(root1 @ root2.T, ord="nuc")
    distance = (
        (mean1 - mean2).square().sum() + root1.square().sum() + root2.square().sum() - 2 * overlap
    )
    return max(0.0, float(distance))


def _mean_and_root(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and a square root R of the covariance, R^T R = S, with at most min(n, d) rows."""
    features = features.double()
    mean = features.mean(dim=0)
    root = (features - mean) / (len(features) - 1) ** 0.5
    if len(root) > root.shape[1]:  # R of A = QR has the same R^T R and is only d x d
        root = torch.linalg.qr(root, mode="r").R
    return mean, root

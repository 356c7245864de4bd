# SPDX-License-Identifier: Apache-2.0
"""Precision, recall, density, coverage: against loops over points, the package, and known sets."""

from __future__ import annotations

import math

import pytest
import torch

from bido_ext.lab.judging import PrivateReference, prdc, prdc_of_classes


def by_loops(private, made, k):
    """The definitions of the two papers, point by point in plain Python."""

    def apart(a, b):
        return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))

    def radius(points, i):
        return sorted(apart(points[i], p) for j, p in enumerate(points) if j != i)[k - 1]

    private, made = private.tolist(), made.tolist()
    balls = [radius(private, i) for i in range(len(private))]
    own = [radius(made, j) for j in range(len(made))]
    pairs = range(len(private)), range(len(made))
    inside = {(i, j) for i in pairs[0] for j in pairs[1] if apart(private[i], made[j]) < balls[i]}
    near = {i for i in pairs[0] for j in pairs[1] if apart(private[i], made[j]) < own[j]}
    n, m = len(private), len(made)
    return (
        len({j for _, j in inside}) / m,
        len(near) / n,
        len(inside) / (k * m),
        len({i for i, _ in inside}) / n,
    )


def values(found):
    return found.precision, found.recall, found.density, found.coverage


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_agrees_with_the_definitions(k, shift):
    private, made = torch.randn(40, 6), torch.randn(25, 6) * 0.8 + shift
    assert values(prdc(private, made, k)) == pytest.approx(by_loops(private, made, k))


def test_agrees_with_the_package_of_its_authors():
    package = pytest.importorskip("prdc")
    private, made = torch.randn(60, 8, dtype=torch.float64), torch.randn(50, 8).double() + 0.3
    theirs = package.compute_prdc(private.numpy(), made.numpy(), nearest_k=5)
    found = prdc(private, made, 5)
    for name, value in theirs.items():
        assert getattr(found, name) == pytest.approx(float(value)), name


def test_known_sets():
    private = torch.arange(10.0)[:, None]
    assert values(prdc(private, private + 100, 1)) == (0, 0, 0, 0)
    copies = prdc(private, private.clone(), 3)
    assert (copies.precision, copies.recall, copies.coverage) == (1, 1, 1)
    # One private image again and again: all precise, little covered.
    same = prdc(private, torch.full((10, 1), 4.0), 2)
    assert same.precision == 1
    assert same.coverage == pytest.approx(0.1)
    assert same.recall == 0, "a ball of equal points has no inside"
    with pytest.raises(ValueError, match="k must be at least 1 and below the sizes of both sets"):
        prdc(private, private[:3], 3)
    with pytest.raises(ValueError, match="one d"):
        prdc(private, torch.zeros(5, 2))


def test_classes_are_judged_apart():
    """Reconstructions that are private images of the other class are no good ones."""
    features = torch.cat([torch.randn(20, 4), torch.randn(20, 4) + 50])
    labels = torch.arange(2).repeat_interleave(20)
    reference = PrivateReference(torch.zeros(40, 1, 2, 2), labels, features)
    right = prdc_of_classes(features, labels, reference, [0, 1])
    assert right is not None
    assert right.precision == right.coverage == 1
    wrong = prdc_of_classes(features, 1 - labels, reference, [0, 1])
    assert wrong is not None
    assert wrong.precision == wrong.coverage == 0
    assert prdc_of_classes(features[:3], labels[:3], reference, [0]) is None, "three images, k = 3"

# SPDX-License-Identifier: Apache-2.0
"""Attack metrics against closed forms and cases with a known answer."""

from __future__ import annotations

import math

import pytest
import torch
from stand_ins import LabelReader, images_of

from bido_ext.lab.judging import (
    PrivateReference,
    clustered_interval,
    embed,
    feature_distance,
    frechet_distance,
    identity_interval,
    judge_attack,
    knn_distance,
    load_inception,
    wilson_interval,
)

CLASSES = [0, 1, 2, 3, 4]


@pytest.fixture
def reference() -> PrivateReference:
    labels = torch.arange(5).repeat(6)
    return PrivateReference.of(LabelReader(), images_of(labels), labels)


def hits(restarts: int, *misses: tuple[int, int]) -> torch.Tensor:
    """Reconstructions that show their class, but for the (restart, class) pairs in ``misses``."""
    shown = torch.tensor(CLASSES).repeat(restarts, 1)
    for restart, column in misses:
        shown[restart, column] = 9
    return images_of(shown)


def test_an_evaluator_that_returns_the_target_gives_full_attack_accuracy(reference):
    metrics = judge_attack(LabelReader(), hits(3), CLASSES, reference)
    assert metrics.attack_accuracy == metrics.attack_accuracy_top5 == 1.0
    assert metrics.std_over_restarts == 0.0
    assert metrics.ci_high == 1.0
    assert metrics.ci_low == pytest.approx(15 / (15 + 1.959964**2))
    assert all(row.attack_accuracy == 1.0 for row in metrics.per_class)


def test_spread_is_over_restarts_and_classes_are_told_apart(reference):
    metrics = judge_attack(LabelReader(), hits(2, (0, 1), (0, 2)), CLASSES, reference)
    assert metrics.attack_accuracy == pytest.approx(0.8)
    assert metrics.std_over_restarts == pytest.approx(math.sqrt(0.08))  # of 0.6 and 1.0
    assert [row.attack_accuracy for row in metrics.per_class] == [1.0, 0.5, 0.5, 1.0, 1.0]


def test_draws_of_a_search_are_no_independent_trials(reference):
    # One search of each class, ten draws of it: classes 3 and 4 are missed by all of their draws.
    images = hits(10, *((draw, column) for draw in range(10) for column in (3, 4)))
    single, together = (
        judge_attack(LabelReader(), images, CLASSES, reference, draws=draws) for draws in (1, 10)
    )
    assert single.attack_accuracy == together.attack_accuracy == 0.6
    assert (single.draws, together.draws) == (1, 10)
    assert (together.ci_low, together.ci_high) == wilson_interval(3, 5)  # five trials, not fifty
    assert single.ci_high - single.ci_low < 0.6 * (together.ci_high - together.ci_low)
    assert single.std_over_restarts == 0.0
    assert together.std_over_restarts is None
    assert "searches" in together.ci_method
    with pytest.raises(ValueError, match="draws must divide the 10 images"):
        judge_attack(LabelReader(), images, CLASSES, reference, draws=3)


def test_the_interval_of_draws_covers():
    """Searches that succeed with a chance of their own, 20 of them with 100 draws each."""
    random = torch.Generator().manual_seed(0)
    covered = {1: 0, 100: 0}
    for _ in range(300):
        chance = torch.empty(20).uniform_(generator=random).mul(torch.pi / 2).sin().square()
        share = torch.bernoulli(chance.expand(100, 20), generator=random).mean(dim=0)
        for draws in covered:
            hits = share if draws > 1 else share.repeat(100)
            low, high = clustered_interval(hits, draws)
            covered[draws] += low <= 0.5 <= high
    assert covered[100] > 0.92 * 300
    assert covered[1] < 0.5 * 300  # what counting every draw would give


def test_draws_that_do_not_differ_from_trials_are_trials():
    share = torch.tensor([0.5] * 8)
    assert clustered_interval(share, 6) == wilson_interval(4, 8)  # no spread to judge by
    alternating = torch.tensor([0.4, 0.6] * 50)
    low, high = clustered_interval(alternating, 10)
    assert (low, high) == pytest.approx(wilson_interval(500, 1000))


def test_the_columns_need_not_be_all_classes_in_order(reference):
    images = hits(2)[:, [3, 1]]
    metrics = judge_attack(LabelReader(), images, [3, 1], reference)
    assert metrics.attack_accuracy == 1.0
    assert metrics.frechet_private == 12


def test_top5_counts_the_five_best(reference):
    # LabelReader ranks the other labels upwards from 0: label 3 is the fifth after a wrong first.
    metrics = judge_attack(LabelReader(), images_of(torch.full((2, 2), 9)), [3, 4], reference)
    assert metrics.attack_accuracy == 0.0
    assert metrics.attack_accuracy_top5 == 0.5


def test_one_restart_has_no_spread(reference):
    metrics = judge_attack(LabelReader(), hits(1), CLASSES, reference)
    assert metrics.std_over_restarts is None
    assert metrics.top5_std_over_restarts is None


def test_a_training_image_has_knn_distance_zero(reference):
    images = torch.stack([reference.images[reference.rows_of(c)[1]] for c in CLASSES])[None]
    metrics = judge_attack(LabelReader(), images, CLASSES, reference)
    assert metrics.knn_distance == 0.0
    assert metrics.feature_distance > 0.0


def test_distances_equal_their_definition(reference):
    images, labels = images_of(torch.tensor([2, 0])), torch.tensor([2, 0])
    features = embed(LabelReader(), images)
    knn, centre = (f(features, labels, reference) for f in (knn_distance, feature_distance))
    for i, label in enumerate(labels.tolist()):
        private = reference.features[reference.labels == label].double()
        squares = (private - features[i].double()).square().sum(dim=1)
        assert knn[i] == pytest.approx(float(squares.min()), rel=1e-5)
        to_centre = (private.mean(dim=0) - features[i].double()).square().sum()
        assert centre[i] == pytest.approx(float(to_centre))


def test_frechet_of_a_set_with_itself_is_zero_even_if_singular():
    few = torch.randn(10, 64) * 100
    assert frechet_distance(few, few) == pytest.approx(0.0, abs=1e-6)
    many = torch.randn(200, 8)
    assert frechet_distance(many, many.flip(0)) == pytest.approx(0.0, abs=1e-9)


def test_frechet_of_two_gaussians_in_closed_form():
    # With commuting covariances: |m1 - m2|^2 + sum (s1 - s2)^2. These rows have exactly
    # covariance diag(s^2): n - 1 = 2 d rows at +- s_i sqrt(d) along each axis, and their mean.
    def rows(mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        d = len(scale)
        corners = torch.diag(scale * d**0.5)
        return mean + torch.cat([corners, -corners, torch.zeros(1, d, dtype=scale.dtype)])

    first_mean, second_mean = torch.tensor([1.0, 0, 2]).double(), torch.tensor([0, 0, 5.0]).double()
    first, second = torch.tensor([1.0, 2, 3]).double(), torch.tensor([2.0, 2, 0.5]).double()
    expected = (first_mean - second_mean).square().sum() + (first - second).square().sum()
    distance = frechet_distance(rows(first_mean, first), rows(second_mean, second))
    assert distance == pytest.approx(float(expected), rel=1e-12)


def test_frechet_agrees_with_torchmetrics_on_regular_covariances():
    fid = pytest.importorskip("torchmetrics.image.fid")

    class Identity(torch.nn.Module):
        num_features = 6

        def forward(self, x):
            return x

    first = torch.randn(50, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)
    second = torch.randn(40, 6, dtype=torch.float64) + 1
    library = fid.FrechetInceptionDistance(feature=Identity(), normalize=True)
    library.set_dtype(torch.float64)
    library.update(first, real=True)
    library.update(second, real=False)
    assert frechet_distance(first, second) == pytest.approx(float(library.compute()), rel=1e-9)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(8, 10, 0.4901625, 0.9433178), (0, 20, 0.0, 0.1611252), (50, 100, 0.4038315, 0.5961685)],
)
def test_wilson_interval(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-6)


def test_the_evaluator_stays_in_its_mode(reference):
    evaluator = LabelReader().train()
    judge_attack(evaluator, hits(1), CLASSES, reference)
    assert evaluator.training


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: judge_attack(LabelReader(), hits(1)[0], CLASSES, r), "restarts, classes"),
        (lambda r: judge_attack(LabelReader(), hits(1), [0, 1], r), "each of the 2 classes"),
        (lambda r: judge_attack(LabelReader(), hits(1) * torch.nan, CLASSES, r), "finite"),
        (lambda r: judge_attack(LabelReader(), hits(1), [0, 1, 2, 3, 12], r), "0..9"),
        (lambda r: judge_attack(LabelReader(), hits(1), [0, 1, 2, 3, 7], r), "no private image"),
        (lambda r: frechet_distance(torch.ones(1, 3), torch.ones(5, 3)), "at least 2 rows"),
        (lambda r: frechet_distance(torch.ones(4, 2), torch.ones(5, 3)), "one d"),
        (lambda r: wilson_interval(3, 2), "0..trials"),
        (lambda r: PrivateReference.of(LabelReader(), r.images, r.labels[:3]), "3 labels"),
        (lambda r: embed(LabelReader(), r.images[:0]), "n >= 1"),
    ],
)
def test_bad_input_is_named(reference, call, message):
    with pytest.raises(ValueError, match=message):
        call(reference)


def test_an_evaluator_without_features_is_named(reference):
    with pytest.raises(TypeError, match="features"):
        embed(torch.nn.Flatten(), reference.images)


def test_interval_over_identities_is_that_of_their_means():
    generator = torch.Generator().manual_seed(0)
    by_identity = torch.rand(400, generator=generator).round()  # each identity fails or succeeds
    low, high = identity_interval(by_identity.expand(5, -1))
    half = 1.96 * float(by_identity.std()) / 20
    assert (low + high) / 2 == pytest.approx(float(by_identity.mean()), abs=0.005)
    assert (high - low) / 2 == pytest.approx(half, rel=0.05)
    wilson = wilson_interval(int(5 * by_identity.sum()), 2000)  # counts each one five times
    assert (high - low) > 2 * (wilson[1] - wilson[0])
    assert identity_interval(torch.ones(4, 1)) is None
    assert identity_interval(torch.ones(4, 3)) == (1.0, 1.0)


def test_judging_names_the_interval_over_identities(reference):
    metrics = judge_attack(LabelReader(), hits(2, (0, 1), (1, 1)), CLASSES, reference)
    assert metrics.identity_ci_low < metrics.attack_accuracy < metrics.identity_ci_high
    assert "bootstrap over identities" in metrics.identity_ci_method
    assert metrics.frechet_inception is None


def test_inception_distance_of_the_same_images_is_zero(reference):
    class Pixels(torch.nn.Module):
        """Stands in for the FID network: uint8 colour images -> (features,)."""

        def __init__(self) -> None:
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            assert (x.dtype, x.shape[1]) == (torch.uint8, 3)
            return (x.flatten(1).float() * self.gain,)

    images = reference.images.unflatten(0, (6, 5))
    metrics = judge_attack(LabelReader(), images, CLASSES, reference, inception=Pixels())
    assert metrics.frechet_inception == pytest.approx(0.0, abs=1e-4)
    other = judge_attack(
        LabelReader(), (1 - images).clamp(max=0.9), CLASSES, reference, inception=Pixels()
    )
    assert other.frechet_inception > 1000


def test_inception_weights_come_from_a_file_of_tensors(tmp_path):
    with pytest.raises(ValueError, match="weights: there is no file of weights"):
        load_inception(tmp_path / "absent.pth")
    torch.save({"conv": torch.zeros(1)}, tmp_path / "other.pth")
    pytest.importorskip("torch_fidelity")
    with pytest.raises(ValueError, match="does not hold the FID network's weights"):
        load_inception(tmp_path / "other.pth")

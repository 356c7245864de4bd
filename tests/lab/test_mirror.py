# SPDX-License-Identifier: Apache-2.0
"""MIRROR's two searches: breeding, bounds, probabilities alone, counted; Adam, clipped, the best kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bido_ext.lab.attacks import BlackBox, DirectLatents
from bido_ext.lab.attacks.mirror import (
    MirrorConfig,
    MirrorWhiteConfig,
    Space,
    bred,
    invert_mirror,
    invert_mirror_white,
    pace,
)
from bido_ext.lab.attacks.stylegan2 import StyleGan2

SHAPE = (1, 4, 4)
CONFIG = MirrorConfig(
    steps=60, candidates=40, population=20, space_samples=200, bound=2.0, mutation_size=0.5
)


class Corners(nn.Module):
    """Two classes by 16 pixels at once: a random image is seldom far on either side."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16))

    def forward(self, x):
        side = ((x.flatten(1) - 0.5) * self.weight).sum(1) * 0.6
        return torch.stack([side, -side], 1)


class Plane(nn.Module):
    """Latents (n, 16) -> images."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, z):
        return (z / 8 + 0.5).view(-1, *SHAPE)


def plane():
    return DirectLatents(Plane(), 16, SHAPE)


def attacked(config, box=None):
    box = BlackBox(Corners(), labels_only=False) if box is None else box
    return invert_mirror(config, box, plane(), [1, 0], progress=False)


def test_children_are_of_the_surest_parents():
    space = Space(plane(), CONFIG)
    points = torch.randn(6, 16)
    still = replace(CONFIG, mutation_size=1e-9, bound=100)
    random = torch.Generator().manual_seed(0)
    wide = Space(plane(), still)
    children = bred(points, torch.tensor([0.5, 0, 0, 0.5, 0, 0]), wide, still, random)
    assert children.shape == (5, 16)
    of_a, of_b = ((children - points[i]).abs() < 1e-6 for i in (0, 3))
    assert (of_a | of_b).all()
    assert of_a.any()
    assert of_b.any()
    moved = bred(points, torch.full((6,), 0.1), space, replace(CONFIG, mutation=1.0), random)
    assert (moved >= space.low).all()
    assert (moved <= space.high).all()


def test_the_search_beats_its_candidates_within_the_bounds():
    box = BlackBox(Corners(), labels_only=False)
    found, start = attacked(CONFIG, box), attacked(replace(CONFIG, steps=1))
    assert (found.target_confidence > start.target_confidence + 0.05).all()
    assert (found.target_confidence >= CONFIG.enough).all()
    assert found.queries == box.queries
    space = Space(plane(), CONFIG)
    assert (found.latents >= space.low).all()
    assert (found.latents <= space.high).all()


def test_it_ends_when_it_is_sure():
    found = attacked(replace(CONFIG, enough=1e-3))
    assert found.queries == 2 * 40 + 2, "the candidates alone, and the last look"


def test_the_budget_holds():
    config = replace(CONFIG, budget=2 * 70, enough=1.0)
    box = BlackBox(Corners(), labels_only=False, budget=config.budget)
    found = attacked(config, box)
    assert found.queries == box.queries == 2 * (40 + 19 + 1), "one generation more is too many"
    scarce = attacked(replace(config, budget=2 * 5))
    assert scarce.queries == 2 * 5


def test_bounds_lie_in_front_of_the_activation():
    torch.manual_seed(0)
    source = StyleGan2(8, {4: 4, 8: 4}, z_dim=6, w_dim=6, mapping_layers=1).eval()
    space = Space(source, CONFIG)
    w = source.mapping(torch.randn(5, 6)).detach()
    if w.dim() == 2:
        points = torch.where(w < 0, w * 5, w)
        torch.testing.assert_close(space.latents(points), w)
    assert space.activated
    assert not Space(plane(), CONFIG).activated


def test_access():
    with pytest.raises(TypeError, match="target must be a BlackBox"):
        attacked(CONFIG, Corners())
    with pytest.raises(PermissionError, match="is told no probabilities"):
        attacked(CONFIG, BlackBox(Corners(), labels_only=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"population": 1}, "population must be at least 2"),
        ({"population": 99}, r"population must be at most candidates \(40\), got 99"),
        ({"mutation": 0.0}, "mutation must be positive, got 0.0"),
        ({"enough": 1.5}, "enough must be at most 1, got 1.5"),
        ({"bound": 0.0}, "bound must be positive"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


WHITE = MirrorWhiteConfig(
    candidates=40, space_samples=200, steps=40, restarts=2, bound=2.0, centre=0
)


class Sides(nn.Module):
    """Two classes by the left half of the image against the right one; colours do not count."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[torch.Tensor] = []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        left, right = x.mean(1).tensor_split(2, 2)
        side = self.weight * (left.mean((1, 2)) - right.mean((1, 2)))
        return 8 * torch.stack([side, -side], 1)


class Colours(Plane):
    """The same latents as images of three colours."""

    def forward(self, z):
        return super().forward(z).repeat(1, 3, 1, 1)


def whitely(config, target=None, source=None, classes=(1, 0)):
    target = Corners() if target is None else target
    return invert_mirror_white(config, target, source or plane(), classes, progress=False)


def test_white_box_starts_from_the_surest_samples_and_beats_them_within_the_bounds():
    found = whitely(WHITE)
    start = whitely(replace(WHITE, steps=1))
    space = Space(plane(), WHITE)
    assert start.target_confidence[0].min() >= start.target_confidence[1].max() - 1e-6
    drawn = torch.randn(2000, 16)
    random = (Corners()(Plane()(drawn)).softmax(1) > 0.9).float().mean()
    assert random < 0.2
    assert (found.target_confidence > start.target_confidence).all()
    assert (found.target_confidence > 0.9).all()
    for config in (WHITE, replace(WHITE, bound=0.5)):
        one = whitely(replace(config, restarts=1))
        space = Space(plane(), config)
        assert (one.latents >= space.low).all()
        assert (one.latents <= space.high).all()


def test_white_box_keeps_the_best_point_and_not_the_last():
    class Turning(Corners):
        """Likes class 1 until its tenth step, and the other way round afterwards."""

        steps = 0

        def forward(self, x):
            self.steps += torch.is_grad_enabled()
            return super().forward(x) * (
                1 if self.steps <= 10 or not torch.is_grad_enabled() else -1
            )

    found = whitely(replace(WHITE, steps=30, lr=0.5, restarts=1), Turning(), classes=[1])
    ten = whitely(replace(WHITE, steps=30, lr=0.5, restarts=1), classes=[1])
    assert found.target_confidence.min() > 0.5
    assert found.target_confidence.min() <= ten.target_confidence.min()


def test_white_box_mirrors_colour_images_alone():
    for source, turned in ((plane(), False), (DirectLatents(Colours(), 16, (3, 4, 4)), True)):
        target = Sides()
        config = replace(WHITE, steps=12, lr=1e-9, restarts=1)
        whitely(config, target, source, classes=[0])
        steps = torch.cat([seen for seen in target.seen if len(seen) == 1])[:-1]  # the last look
        apart = (steps - steps[:1]).abs().amax((1, 2, 3)) > 1e-4
        assert bool(apart.any()) == turned
        assert not turned or torch.allclose(steps[apart][0], steps[:1][0].flip(2), atol=1e-4)


def test_the_pace_rises_stays_and_falls():
    paces = [pace(step, 100) for step in range(1, 101)]
    assert paces[0] == pytest.approx(0.2)
    assert paces[4:75] == pytest.approx([1.0] * 71)
    assert paces[75:] == sorted(paces[75:], reverse=True)
    assert paces[-1] == 0


def test_white_box_resizes_for_its_target():
    class Large(Corners):
        def forward(self, x):
            assert x.shape[2:] == (8, 8)
            return super().forward(x[:, :, ::2, ::2])

    found = invert_mirror_white(
        replace(WHITE, steps=2), Large(), plane(), [0, 1], input_size=8, progress=False
    )
    assert found.images.shape == (2, 2, 1, 8, 8)


def test_white_box_access_and_settings():
    with pytest.raises(TypeError, match="target must be a network"):
        whitely(WHITE, BlackBox(Corners(), labels_only=False))
    with pytest.raises(ValueError, match=r"restarts must be at most candidates \(40\), got 41"):
        replace(WHITE, restarts=41)
    with pytest.raises(ValueError, match="mirrored must be below 1"):
        replace(WHITE, mirrored=1.0)

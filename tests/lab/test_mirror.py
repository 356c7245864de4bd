# SPDX-License-Identifier: Apache-2.0
"""MIRROR's genetic search: breeding, bounds, probabilities alone, counted and budgeted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bido_ext.lab.attacks import BlackBox, DirectLatents
from bido_ext.lab.attacks.mirror import MirrorConfig, Space, bred, invert_mirror
from bido_ext.lab.attacks.stylegan2 import StyleGan2

SHAPE = (1, 4, 4)
CONFIG = MirrorConfig(
    steps=60, candidates=40, population=20, space_samples=200, bound=2.0, mutation_size=0.5
)
CPU = torch.device("cpu")


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
    space = Space(plane(), CONFIG, CPU)
    points = torch.randn(6, 16)
    still = replace(CONFIG, mutation_size=1e-9, bound=100)
    random = torch.Generator().manual_seed(0)
    wide = Space(plane(), still, CPU)
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
    space = Space(plane(), CONFIG, CPU)
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
    space = Space(source, CONFIG, CPU)
    w = source.mapping(torch.randn(5, 6)).detach()
    if w.dim() == 2:
        points = torch.where(w < 0, w * 5, w)
        torch.testing.assert_close(space.latents(points), w)
    assert space.activated
    assert not Space(plane(), CONFIG, CPU).activated


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

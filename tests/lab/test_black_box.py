# SPDX-License-Identifier: Apache-2.0
"""The black box, and BREP-MI through it: labels alone, counted, within the budget."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.lab.attacks import BlackBox, BrepConfig, BudgetError, DirectLatents, invert_brep
from bido_ext.lab.defences import Defence
from bido_ext.lab.models import build_model
from bido_ext.lab.models.checkpoint import save_model, weights_digest

SHAPE = (1, 2, 2)


class Sectors(nn.Module):
    """Four classes by the signs of the first two pixels around 1/2; all is known of their boundary."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        u, v = (x.flatten(1)[:, :2] - 0.5).unbind(1)
        return self.weight * torch.stack([u.add(v), u.sub(v), v.sub(u), -u - v], 1)


class Plane(nn.Module):
    """Latents (n, 4) in [-5, 5] -> images."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, z):
        return (z / 10 + 0.5).view(-1, *SHAPE)


def plane():
    return DirectLatents(Plane(), 4, SHAPE)


CONFIG = BrepConfig(
    steps=60, candidates=16, points=32, radius=0.3, most_radius=20, clip=4, restarts=2
)


def test_no_network_and_no_gradient_comes_out_of_the_box():
    model = build_model("mcnn", 5).train()
    box = BlackBox(model, labels_only=False)
    assert not model.training
    assert not any(isinstance(value, nn.Module) for value in vars(box).values())
    images = torch.rand(3, 1, 32, 32, requires_grad=True)
    assert not box.probabilities(images).requires_grad
    assert not box.labels(images).requires_grad
    assert box.queries == 6
    assert box.digest == weights_digest(model)
    assert box.outputs((1, 32, 32)) == 5
    assert box.queries == 6
    with pytest.raises(ValueError, match="target must take the attack's images of shape"):
        box.outputs((3, 8, 8))


def test_labels_alone_and_within_the_budget():
    box = BlackBox(Sectors(), labels_only=True, budget=5)
    assert box.labels(torch.tensor([[[[0.9, 0.8], [0, 0]]], [[[0.1, 0.2], [0, 0]]]])).tolist() == [
        0,
        3,
    ]
    with pytest.raises(PermissionError, match="is told no probabilities"):
        box.probabilities(torch.rand(1, *SHAPE))
    with pytest.raises(BudgetError, match="2 of 5 queries are spent, 4 more are too many"):
        box.labels(torch.rand(4, *SHAPE))
    assert box.queries == 2


def test_the_service_answers_as_its_defence_says():
    rounded = BlackBox(
        Sectors(), labels_only=False, answers=Defence("rounding", {"digits": 1}).answers
    )
    told = rounded.probabilities(torch.rand(9, *SHAPE))
    torch.testing.assert_close(told * 10, (told * 10).round())


def test_a_network_is_refused():
    with pytest.raises(TypeError, match="target must be a BlackBox"):
        invert_brep(CONFIG, Sectors(), plane(), [0])


def test_moves_away_from_the_boundary():
    box = BlackBox(Sectors(), labels_only=True)
    found = invert_brep(CONFIG, box, plane(), range(4), progress=False)
    assert (found.target_confidence == 1).all()
    first = invert_brep(
        replace(CONFIG, steps=2),
        BlackBox(Sectors(), labels_only=True),
        plane(),
        range(4),
        progress=False,
    )
    # Distance of a latent to the nearest boundary: the smaller of its first two coordinates.
    far, near = (run.latents[..., :2].abs().amin(-1) for run in (found, first))
    assert (far > 2.5).all()
    assert far.mean() > 2 * near.mean()
    assert found.queries == box.queries


def test_the_budget_holds_and_is_shared_evenly():
    config = replace(CONFIG, budget=8 * 200)
    box = BlackBox(Sectors(), labels_only=True, budget=config.budget)
    found = invert_brep(config, box, plane(), range(4), progress=False)
    assert 8 * 150 < box.queries == found.queries <= config.budget
    alone = BlackBox(Sectors(), labels_only=True)
    one = invert_brep(replace(config, budget=2 * 200), alone, plane(), [2], progress=False)
    assert torch.equal(one.latents[:, 0], found.latents[:, 2]), "others' queries are not its own"
    with pytest.raises(ValueError, match="budget must be at least 2 for each of 8 searches, got 9"):
        invert_brep(replace(CONFIG, budget=9), box, plane(), range(4))


def test_a_label_that_the_target_never_gives_is_told(tmp_path):
    class Never(Sectors):
        def forward(self, x):
            return super().forward(x) - torch.tensor([0.0, 0, 0, 100])

    found = invert_brep(
        replace(CONFIG, steps=4),
        BlackBox(Never(), labels_only=True),
        plane(),
        [0, 3],
        progress=False,
    )
    assert found.target_confidence.tolist() == [[1.0, 0.0], [1.0, 0.0]]


def bido(*arguments):
    return CliRunner().invoke(app, [str(part) for part in arguments])


def test_the_command_counts_and_meets_what_the_model_answers(tmp_path):
    torch.manual_seed(0)
    save_model(
        tmp_path / "m.pt",
        build_model("mcnn", 5),
        "mcnn",
        5,
        "rounding",
        {},
        weights={"digits": 0.0},
    )
    attack = [
        "attack",
        tmp_path / "m.pt",
        "--attack",
        "brep",
        "--preset",
        "smoke",
        "--prior",
        tmp_path / "gan",
    ]
    done = bido(*attack, "--budget", 100, "--out", tmp_path / "a", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert 0 < told["queries"] <= 100
    stage = json.loads((tmp_path / "a" / "stage.json").read_text())
    assert stage["config"]["answers"] == ["rounding", {"digits": 0.0}]
    again = bido(*attack, "--budget", 100, "--out", tmp_path / "a", "--json")
    assert json.loads(again.stdout)["queries"] == told["queries"]
    other = bido(*attack, "--budget", 90, "--out", tmp_path / "a")
    assert other.exit_code == 2
    assert "settings.budget: 100 -> 90" in other.stderr
    white = bido(
        "attack",
        tmp_path / "m.pt",
        "--preset",
        "smoke",
        "--prior",
        tmp_path / "gan",
        "--budget",
        5,
        "--out",
        tmp_path / "b",
    )
    assert "--budget is no setting of this attack (GmiConfig)" in white.stderr

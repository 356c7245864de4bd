# SPDX-License-Identifier: Apache-2.0
"""Adaptive attackers: what stands in for the target, for whom, and what is recorded of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.lab.attacks import (
    ATTACKS,
    Critic,
    Gan,
    Generator,
    GmiConfig,
    invert,
    surrogates,
)
from bido_ext.lab.attacks.adaptive import (
    KINDS,
    PRESETS,
    AdaptiveConfig,
    StandIn,
    check_white_box,
    stand_in,
    told_by,
)
from bido_ext.lab.data import ImageSet
from bido_ext.lab.experiments.adaptive import adapt
from bido_ext.lab.experiments.attacking import PublicSet, attack_target
from bido_ext.lab.experiments.stage import RunOptions
from bido_ext.lab.models.checkpoint import weights_digest

SHAPE = (1, 16, 16)
CPU = torch.device("cpu")
TINY = replace(PRESETS["smoke"], augment="none", checkpoint_every=2, steps=5)
QUIET = RunOptions(progress=False)
WHITE = [spec for spec in ATTACKS.values() if spec.access == "white box"]


class Steps(nn.Module):
    """Two classes by brightness, told in steps: its gradient is 0 wherever there is one."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((), 6.0))

    def forward(self, x):
        steps = (x.mean((1, 2, 3)) * 12).floor() + 0 * x.sum((1, 2, 3))
        mean = (steps + 0.5) / 12 - 0.5  # never 0
        return self.weight * torch.stack([mean, -mean], 1)


class Grey(nn.Module):
    """Even images, as bright as the latents say."""

    shape = SHAPE

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, z):
        return (4 * z.mean(1)).sigmoid()[:, None, None, None].expand(-1, *SHAPE)


class Indifferent(nn.Module):
    """A critic to which all images are alike."""

    def forward(self, x):
        return 0 * x.sum((1, 2, 3))


@pytest.fixture(scope="module")
def public():
    random = torch.Generator().manual_seed(0)
    base = torch.rand(80, 1, 1, 1, generator=random)
    noise = torch.randn(80, *SHAPE, generator=random)
    return ImageSet((base + 0.05 * noise).clamp(0, 1), None)


def learnt(target, public, folder=None, **changes):
    return stand_in(
        replace(TINY, **changes), target, public, folder, digest=weights_digest(target),
        progress=False,
    )  # fmt: skip


def test_the_mean_of_the_logits():
    torch.manual_seed(0)
    networks = [surrogates.Student(1, 3, SHAPE, 0.1).eval() for _ in range(2)]
    images = torch.rand(4, *SHAPE)
    told = StandIn(networks)(images)
    torch.testing.assert_close(told, (networks[0](images) + networks[1](images)) / 2)


def test_the_target_is_among_them_where_it_was_asked_for(public):
    target, images = Steps(), torch.rand(3, *SHAPE)
    alone, both = (learnt(target, public, kind=kind) for kind in KINDS)
    assert len(alone.networks) == 1
    torch.testing.assert_close(both(images), (alone(images) + target(images)) / 2)
    assert target.weight.grad is None


def test_a_surrogate_comes_to_answer_as_the_target(public):
    target, images = Steps(), public.tensors[0]

    def away(steps):
        made = learnt(target, public, steps=steps, lr=0.05, batch_size=40, width=0.3)
        with torch.no_grad():
            told, opinion = made(images).log_softmax(1), target(images).softmax(1)
        return float(F.kl_div(told, opinion, reduction="batchmean"))

    assert away(60) < 0.5 * away(1)


def test_it_finds_its_way_where_the_target_has_no_gradient():
    """What the option is for: a target of steps leaves a white-box search where it began."""
    even = torch.linspace(0, 1, 80)[:, None, None, None].expand(-1, *SHAPE)
    target, prior = Steps(), Gan(Grey(), Indifferent(), [], 0.0, Path())
    config = GmiConfig(steps=20, lr=0.1, restarts=3)
    blind, start = (
        invert(replace(config, steps=steps), target, prior, range(2), progress=False)
        for steps in (20, 1)
    )
    assert torch.equal(blind.latents, start.latents)
    assert told_by(target, blind, CPU).mean() < 0.6
    images = ImageSet(even.contiguous(), None)
    made = learnt(target, images, steps=60, lr=0.05, batch_size=40, width=0.3)
    found = invert(config, made, prior, range(2), progress=False)
    assert told_by(target, found, CPU).min() > 0.8


def test_a_killed_surrogate_resumes_to_the_same_bits(public, tmp_path, monkeypatch):
    target = Steps()
    whole = learnt(target, public, tmp_path / "whole")
    descend = surrogates._descend

    def killed(*arguments):
        if arguments[-1] == 4:
            raise KeyboardInterrupt
        descend(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(surrogates, "_descend", killed)
        with pytest.raises(KeyboardInterrupt):
            learnt(target, public, tmp_path / "killed")
    torch.manual_seed(77)  # the global generator has no say
    resumed = learnt(target, public, tmp_path / "killed")
    assert weights_digest(resumed) == weights_digest(whole)
    with pytest.raises(ValueError, match="was made with lr=0.01, now lr=0.5"):
        learnt(target, public, tmp_path / "killed", lr=0.5)
    other = Steps()
    other.weight.data += 1
    with pytest.raises(ValueError, match="was made with target="):
        learnt(other, public, tmp_path / "killed")


def test_the_attack_records_it_and_tells_the_targets_own_confidence(public, tmp_path):
    target, asked = Steps(), []
    forward = target.forward

    def watched(x):
        asked.append(torch.is_grad_enabled())
        return forward(x)

    target.forward = watched
    torch.manual_seed(0)
    prior = Gan(Generator(0.05, SHAPE).eval(), Critic(0.05, SHAPE).eval(), [], 0.0, Path())
    images = PublicSet(public, "these")
    made = adapt("gmi", TINY, target, images, tmp_path / "s", QUIET)
    attacked = attack_target(
        "gmi", target, prior, GmiConfig(steps=2, restarts=2), [1, 0], tmp_path / "a", QUIET,
        adapted=(made.network, made.settings),
    )  # fmt: skip
    assert not any(asked), "no gradient of the target was asked for"
    config = torch.load(tmp_path / "a" / "reconstructions.pt", weights_only=True)["config"]
    assert config["adaptive"]["kind"] == "surrogate"
    assert config["adaptive"]["steps"] == TINY.steps
    assert config["target"] == weights_digest(target) != config["adaptive"]["weights"]
    found = attacked.reconstructions
    told = target(found.images.flatten(0, 1)).softmax(1).view(2, 2, 2)
    torch.testing.assert_close(found.target_confidence, told.gather(2, torch.tensor(
        [[[1], [0]]] * 2)).squeeze(2))  # fmt: skip
    again = adapt("gmi", TINY, target, images, tmp_path / "s", QUIET)
    assert again.note == "already done with this configuration, reused"
    assert again.settings == made.settings
    with pytest.raises(ValueError, match="was made with another configuration"):
        attack_target(
            "gmi", target, prior, GmiConfig(steps=2, restarts=2), [1, 0], tmp_path / "a", QUIET
        )


@pytest.mark.parametrize("name", [name for name, spec in ATTACKS.items() if spec not in WHITE])
def test_black_boxes_are_refused(name, public, tmp_path):
    with pytest.raises(ValueError, match=f"adaptive is for white-box attacks, {name} is"):
        check_white_box(ATTACKS[name])
    with pytest.raises(ValueError, match=f"adaptive is for white-box attacks, {name} is"):
        adapt(name, TINY, Steps(), PublicSet(public, ""), tmp_path, QUIET)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "oracle"}, "kind must be one of 'surrogate' or 'surrogate.target', got"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"momentum": 1.0}, "momentum must be below 1"),
        ({"augment": "cutout"}, "augment must be one of"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        replace(AdaptiveConfig(), **change)


SMOKE = ("--preset", "smoke")


def bido(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("target")
    assert bido("train", *SMOKE, "--out", out).exit_code == 0
    return out / "model.pt"


@pytest.mark.parametrize("attack", [spec.name for spec in WHITE])
def test_every_white_box_attack_takes_it(attack, model, tmp_path):
    command = ("attack", model, *SMOKE, "--attack", attack, "--json", "--classes", "0,1")
    command += ("--prior", tmp_path / "gan", "--prior-steps", 1, "--prior-set", "width=0.05")
    command += ("--adaptive", "surrogate+target", "--adaptive-set", "steps=2", "--out", tmp_path)
    done = bido(*command)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["adaptive"] == "surrogate+target"
    found = torch.load(tmp_path / "reconstructions.pt", weights_only=True)
    assert found["config"]["adaptive"]["steps"] == 2
    assert (tmp_path / "surrogate" / "stage.json").is_file()
    assert bido(*command).stdout == done.stdout, "finished ones are reused"


def test_the_command_refuses_what_makes_no_sense(model, tmp_path):
    command = ("attack", model, *SMOKE, "--prior", tmp_path / "g", "--out", tmp_path / "a")
    black = bido(*command, "--attack", "brep", "--adaptive", "surrogate")
    assert "adaptive is for white-box attacks, brep is label only" in black.stderr
    unknown = bido(*command, "--adaptive", "oracle")
    assert "--adaptive must be one of surrogate, surrogate+target, got 'oracle'" in unknown.stderr
    alone = bido(*command, "--adaptive-set", "steps=3")
    assert "--adaptive-set is for --adaptive, which is missing" in alone.stderr
    assert {done.exit_code for done in (black, unknown, alone)} == {2}
    listed = bido("list", "attacks").stdout.splitlines()
    told = {line.split()[0]: line.endswith("[white box, --adaptive]") for line in listed}
    assert told == {name: spec in WHITE for name, spec in ATTACKS.items()}

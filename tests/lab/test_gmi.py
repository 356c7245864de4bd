# SPDX-License-Identifier: Apache-2.0
"""GMI: the written recurrence, restarts that do not depend on each other, exact continuation."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from bido_ext.lab.attacks import Critic, Gan, Generator, GmiConfig, gmi, invert
from bido_ext.lab.models import build_model

SHORT = GmiConfig(steps=4, restarts=2, checkpoint_every=2)


@pytest.fixture
def networks():
    torch.manual_seed(0)
    target = build_model("mcnn", 5).eval()
    prior = Gan(Generator(0.1).eval(), Critic(0.1).eval(), [], 0.0, Path())
    return target, prior


def _invert(config, networks, classes=range(5), **options):
    return invert(config, *networks, classes, progress=False, **options)


def test_shapes_and_ranges(networks):
    found = _invert(SHORT, networks, [3, 1])
    assert found.images.shape == (2, 2, 1, 32, 32)
    assert found.latents.shape == (2, 2, 100)
    assert found.classes == [3, 1]
    assert found.latents.abs().max() <= 1
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    target, prior = networks
    with torch.no_grad():
        images = prior.generator(found.latents.flatten(0, 1))
        confidence = target(images).softmax(1).view(2, 2, 5)[:, [0, 1], [3, 1]]
    torch.testing.assert_close(found.images.flatten(0, 1), images)
    torch.testing.assert_close(found.target_confidence, confidence)


def test_update_is_the_written_recurrence(networks):
    target, prior = networks
    config = replace(SHORT, steps=3, restarts=1)
    z = torch.randn(5, 100, generator=torch.Generator().manual_seed(0))
    v = torch.zeros_like(z)
    for _ in range(3):
        z = z.requires_grad_()
        x = prior.generator(z)
        loss = -prior.critic(x).sum() + 100 * F.nll_loss(
            target(x).log_softmax(1), torch.arange(5), reduction="sum"
        )
        new = 0.9 * v - 2e-3 * torch.autograd.grad(loss, z)[0]
        z = (z.detach() - 0.9 * v + 1.9 * new).clamp(-1, 1)
        v = new
    torch.testing.assert_close(_invert(config, networks).latents[0], z, rtol=1e-4, atol=1e-4)


def test_result_does_not_depend_on_what_else_is_attacked(networks):
    alone = _invert(replace(SHORT, restarts=1), networks)
    among = _invert(replace(SHORT, restarts=3), networks)
    torch.testing.assert_close(alone.latents[0], among.latents[0], rtol=1e-4, atol=1e-4)


def test_result_does_not_depend_on_the_batch(networks):
    whole = _invert(SHORT, networks)
    cut = _invert(replace(SHORT, batch_size=3), networks)
    some = _invert(SHORT, networks, [4, 2])
    close = {"rtol": 1e-4, "atol": 1e-4}  # products of another size add in another order
    torch.testing.assert_close(whole.latents, cut.latents, **close)
    torch.testing.assert_close(whole.latents[:, [4, 2]], some.latents, **close)


def test_faces_of_64_pixels():
    prior = Gan(
        Generator(0.05, (3, 64, 64)).eval(), Critic(0.05, (3, 64, 64)).eval(), [], 0.0, Path()
    )
    target = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 7))
    assert invert(SHORT, target, prior, [6], progress=False).images.shape == (2, 1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"target must take the attack's images of shape \(3, 64"):
        invert(SHORT, build_model("mcnn", 5), prior, [0], progress=False)


def test_nan_is_named(networks):
    _, prior = networks
    broken = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 5))
    with torch.no_grad():
        broken[1].bias[3] = float("nan")
    with pytest.raises(
        FloatingPointError, match="GMI: identity 0, restart 0: the loss is nan at iteration 1"
    ):
        invert(SHORT, broken, prior, range(5), progress=False)


def test_seed_decides_the_starts(networks):
    first, same, other = (_invert(replace(SHORT, seed=s), networks).latents for s in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_attack_raises_the_targets_confidence(networks):
    target = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 5))
    with torch.no_grad():  # untrained networks hardly react to their input: make them
        target[1].weight.mul_(100)
        for weights in networks[1].generator.parameters():
            weights.mul_(3)
    config = replace(SHORT, lr=0.02)
    start, end = (
        invert(replace(config, steps=steps), target, networks[1], range(5), progress=False)
        for steps in (1, 60)
    )
    assert end.target_confidence.mean() > start.target_confidence.mean() + 0.1


def test_interrupted_attack_ends_as_the_whole_one(networks, tmp_path, monkeypatch):
    whole = _invert(SHORT, networks, run_dir=tmp_path / "whole")
    advance = gmi.GmiSearch.advance

    def killed_in_step_4(self, step):
        if step == 4:
            raise KeyboardInterrupt
        return advance(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(gmi.GmiSearch, "advance", killed_in_step_4)
        with pytest.raises(KeyboardInterrupt):
            _invert(SHORT, networks, run_dir=tmp_path / "killed")
    resumed = _invert(SHORT, networks, run_dir=tmp_path / "killed")
    assert torch.equal(whole.latents, resumed.latents)
    assert torch.equal(whole.images, resumed.images)


def test_attack_on_another_model_is_not_continued(networks, tmp_path):
    _invert(SHORT, networks, run_dir=tmp_path)
    torch.manual_seed(1)
    other = build_model("mcnn", 5).eval()
    with pytest.raises(ValueError, match="was made with target="):
        invert(SHORT, other, networks[1], range(5), run_dir=tmp_path, progress=False)
    with pytest.raises(ValueError, match="was made with steps=4, now steps=5"):
        _invert(replace(SHORT, steps=5), networks, run_dir=tmp_path)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "classes must name at least one label"),
        ([0, 5], "classes: the target has labels 0 to 4, got 5"),
        ([-1], "classes: the target has labels 0 to 4, got -1"),
        ([1, 1], r"classes must not repeat, got \[1, 1\]"),
    ],
)
def test_bad_classes(networks, classes, message):
    with pytest.raises(ValueError, match=message):
        _invert(SHORT, networks, classes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"clip": -1.0}, "clip must be positive, got -1.0"),
        ({"momentum": 1.0}, "momentum must be below 1, got 1.0"),
        ({"id_weight": -1.0}, "id_weight must be at least 0, got -1.0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_configuration(change, message):
    with pytest.raises(ValueError, match=message):
        GmiConfig(**change)

# SPDX-License-Identifier: Apache-2.0
"""The diffusion prior: the process, a network that learns it, DDIM, guidance, exact continuation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bido_ext.lab.attacks.diffusion import (
    DiffusionConfig,
    DiffusionPrior,
    DiffusionPriorConfig,
    UNet,
    inversion,
    invert_diffusion,
    mixed,
    taken_apart,
    train_diffusion,
    training,
)
from bido_ext.lab.data import ImageSet
from bido_ext.lab.models.checkpoint import weights_digest

SHAPE = (1, 16, 16)
TINY = DiffusionPriorConfig(
    steps=4, batch_size=6, width=0.1, patch=2, augment="none", checkpoint_every=1
)
SHORT = DiffusionConfig(steps=8, restarts=2, batch_size=3, checkpoint_every=2)


@pytest.fixture(scope="module")
def public():
    return ImageSet(torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(1)), None)


def of(network):
    return DiffusionPrior(network.eval(), [], 0.0, Path())


class OneImage(nn.Module):
    """The exact answer where the only public image is grey of ``value`` in [-1, 1]."""

    shape = SHAPE

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))

    def forward(self, x, times):
        angle = (times * (torch.pi / 2)).view(-1, 1, 1, 1)
        # x = cos image + sin noise gives the noise, and v = cos noise - sin image.
        noise = (x - angle.cos() * self.value) / angle.sin()
        return angle.cos() * noise - angle.sin() * self.value


class Normal(nn.Module):
    """The exact answer where the public images are normal around grey, with deviation 1/2."""

    shape = SHAPE

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x, times):
        angle = (times * (torch.pi / 2)).view(-1, 1, 1, 1)
        image = angle.cos() / 4 * x / (angle.cos().square() / 4 + angle.sin().square())
        return (angle.cos() * x - image) / angle.sin()


def linear(classes=3):
    torch.manual_seed(1)
    made = nn.Sequential(nn.Flatten(), nn.Linear(256, classes))
    with torch.no_grad():
        made[1].weight.mul_(4)
    return made


def attacked(config, network, target, classes=(2, 0), **how):
    return invert_diffusion(config, target, of(network), classes, progress=False, **how)


def test_the_process_and_back():
    torch.manual_seed(0)
    image, noise = torch.randn(2, 5, *SHAPE, dtype=torch.float64)
    times = torch.tensor([0.0, 0.3, 0.5, 0.9, 1.0], dtype=torch.float64)
    x, v = mixed(image, noise, times)
    torch.testing.assert_close(x[0], image[0])
    torch.testing.assert_close(x[4], noise[4])
    torch.testing.assert_close(x[2], (image[2] + noise[2]) / 2**0.5)
    for found, wanted in zip(taken_apart(x, v, times), (image, noise), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("shape", "patch"), [((1, 16, 16), 1), ((1, 32, 32), 4), ((3, 64, 64), 2)])
def test_the_network(shape, patch):
    torch.manual_seed(0)
    network = UNet(0.07, shape, patch)
    x, times = torch.randn(2, *shape), torch.tensor([0.2, 0.7])
    assert torch.equal(network(x, times), torch.zeros(2, *shape)), "it starts as nothing"
    for value in network.parameters():
        nn.init.normal_(value, std=0.1)
    told = network(x, times)
    assert told.shape == (2, *shape)
    torch.testing.assert_close(network(x[1:], times[1:]), told[1:])  # each image alone
    assert not torch.allclose(network(x, times.flip(0)), told, atol=1e-5)


def test_patches_that_do_not_fit_are_refused():
    for patch in (3, 4):
        with pytest.raises(ValueError, match="patch must be 1, 2 or 4"):
            UNet(0.1, SHAPE, patch)


def test_it_learns_the_public_images(tmp_path):
    """All black: of noise alone the network comes to tell black."""
    black = ImageSet(torch.zeros(4, *SHAPE), None)
    config = replace(TINY, steps=150, batch_size=16, lr=3e-3, checkpoint_every=150, average=0.9)
    prior = train_diffusion(config, black, tmp_path, progress=False)
    found = attacked(replace(SHORT, guidance=0.0), prior.generator, linear())
    assert found.images.mean() < 0.15
    assert prior.history[-1]["loss"] < 0.5, "an untrained network's is 1"


def test_a_killed_training_ends_as_the_whole_one(public, tmp_path, monkeypatch):
    whole = train_diffusion(TINY, public, tmp_path / "whole", progress=False)
    advance = training._Trainer.advance

    def killed(self):
        if self.step == 2:
            raise KeyboardInterrupt
        advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(training._Trainer, "advance", killed)
        with pytest.raises(KeyboardInterrupt):
            train_diffusion(TINY, public, tmp_path / "killed", progress=False)
    torch.manual_seed(77)  # the global generator has no say
    resumed = train_diffusion(TINY, public, tmp_path / "killed", progress=False)
    assert weights_digest(resumed.generator) == weights_digest(whole.generator)
    assert not resumed.generator.training
    with pytest.raises(ValueError, match="was made with lr=0.0002, now lr=0.1"):
        train_diffusion(replace(TINY, lr=0.1), public, tmp_path / "killed", progress=False)


def test_the_average_trails_the_weights(public, tmp_path):
    trainer = training._Trainer(TINY, public, torch.device("cpu"))
    first = trainer.network.last[2].bias.detach().clone()
    trainer.advance()
    one = trainer.network.last[2].bias.detach().clone()
    torch.testing.assert_close(trainer.average.last[2].bias.detach(), torch.lerp(one, first, 0.1))


def test_ddim_without_guidance_finds_the_only_image():
    for value in (-0.5, 0.8):
        found = attacked(replace(SHORT, guidance=0.0), OneImage(value), linear())
        torch.testing.assert_close(
            found.images, torch.full((2, 2, *SHAPE), (value + 1) / 2), atol=1e-4, rtol=0
        )


def test_guidance_pulls_towards_the_class():
    target = linear()
    sure = [
        attacked(replace(SHORT, guidance=guidance), Normal(), target).target_confidence.mean()
        for guidance in (0.0, 20.0)
    ]
    assert sure[1] > sure[0] + 0.2


def test_rows_do_not_touch():
    torch.manual_seed(0)
    network, target = UNet(0.1, SHAPE, 2).double(), linear().double()
    for value in network.parameters():
        nn.init.normal_(value, std=0.1)
    whole = attacked(SHORT, network, target, (0, 1, 2))
    some = attacked(replace(SHORT, batch_size=1), network, target, (2, 0))
    torch.testing.assert_close(whole.images[:, [2, 0]], some.images, rtol=1e-6, atol=1e-8)


def test_a_killed_attack_ends_as_the_whole_one(tmp_path, monkeypatch):
    network, target = OneImage(0.1), linear()
    whole = attacked(SHORT, network, target)
    advance, calls = inversion._Diffusion.advance, []

    def killed(self, step):
        calls.append(step)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return advance(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(inversion._Diffusion, "advance", killed)
        with pytest.raises(KeyboardInterrupt):
            attacked(SHORT, network, target, run_dir=tmp_path)
    resumed = attacked(SHORT, network, target, run_dir=tmp_path)
    assert torch.equal(resumed.images, whole.images)


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (SHORT, {"views": 0}, "views must be at least 1"),
        (SHORT, {"guidance": -1.0}, "guidance must be at least 0"),
        (TINY, {"average": 1.0}, "average must be below 1, got 1.0"),
        (TINY, {"steps": 0}, "steps must be at least 1"),
        (TINY, {"augment": "cutout"}, "augment must be one of"),
    ],
)
def test_bad_settings(make, change, message):
    with pytest.raises(ValueError, match=message):
        replace(make, **change)

# SPDX-License-Identifier: Apache-2.0
"""GMI's prior: shapes, the gradient penalty, and a killed training that continues exactly."""

from dataclasses import replace

import pytest
import torch

from bido_ext.lab.attacks import Critic, GanConfig, Generator, gan, train_gan
from bido_ext.lab.data import ImageSet

TINY = GanConfig(
    steps=4, batch_size=8, critic_steps=2, width=0.05, critic_width=0.1, checkpoint_every=2
)


@pytest.fixture(scope="module")
def public():
    return torch.rand(30, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def _train(config, public, folder, **options):
    return train_gan(config, public, folder, progress=False, **options)


def _weights(result):
    return [*result.generator.state_dict().values(), *result.critic.state_dict().values()]


def test_shapes_and_range():
    images = Generator(0.1)(torch.randn(3, 100))
    assert images.shape == (3, 1, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1
    assert Critic(0.1)(images).shape == (3,)


def test_full_width_has_the_published_channels():
    channels = [m.weight.shape[0] for m in Generator().modules() if hasattr(m, "output_padding")]
    kernels = [tuple(m.weight.shape) for m in Critic().modules() if isinstance(m, torch.nn.Conv2d)]
    assert Generator().project[0].weight.shape == (4096, 100)
    assert channels == [256, 128, 64]
    assert kernels == [(64, 1, 5, 5), (128, 64, 5, 5), (256, 128, 5, 5), (1, 256, 4, 4)]


def test_critic_loss_is_wgan_gp(public):
    trainer = gan._Trainer(replace(TINY, augment="none"), public, torch.device("cpu"))
    # A linear critic has slope |w| everywhere: the penalty is (|w| - 1)^2, the distance linear.
    w = torch.randn(1024)
    trainer.critic.forward = lambda x: x.flatten(1) @ w
    loss = trainer.critic_loss(torch.Generator().manual_seed(1))
    random = torch.Generator().manual_seed(1)
    real = public[torch.randint(len(public), (8,), generator=random)]
    fake = trainer.generator(torch.randn(8, 100, generator=random))
    expected = ((fake - real).flatten(1) @ w).mean() + 10 * (w.norm() - 1).square()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_interrupted_run_ends_as_the_whole_one(public, tmp_path, monkeypatch):
    whole = _train(TINY, public, tmp_path / "whole")
    advance = gan._Trainer.advance

    def killed_at_step_3(self):
        if self.step == 3:
            raise KeyboardInterrupt
        advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(gan._Trainer, "advance", killed_at_step_3)
        with pytest.raises(KeyboardInterrupt):
            _train(TINY, public, tmp_path / "killed")
    torch.rand(7)
    resumed = _train(TINY, public, tmp_path / "killed")
    assert all(map(torch.equal, _weights(whole), _weights(resumed)))
    assert resumed.history == whole.history
    assert [row["step"] for row in whole.history] == [2, 4]


def test_finished_run_is_not_repeated(public, tmp_path, monkeypatch):
    first = _train(TINY, public, tmp_path)
    monkeypatch.setattr(gan._Trainer, "advance", None)
    again = _train(TINY, public, tmp_path)
    assert all(map(torch.equal, _weights(first), _weights(again)))
    assert not again.generator.training


def test_run_of_another_configuration_is_refused(public, tmp_path):
    _train(TINY, public, tmp_path)
    with pytest.raises(ValueError, match="was made with steps=4, now steps=6"):
        _train(replace(TINY, steps=6), public, tmp_path)


def test_run_on_as_many_other_images_is_refused(public, tmp_path):
    _train(TINY, public, tmp_path)
    with pytest.raises(ValueError, match="was made with public_sha256="):
        _train(TINY, public.flip(0), tmp_path)


def test_hash_of_an_image_set_is_of_its_images_in_order():
    images = torch.randint(256, (600, 1, 4, 4), dtype=torch.uint8)
    rows = torch.randperm(600)[:500]
    whole = ImageSet(images[rows], None).sha256()
    assert ImageSet(images, torch.zeros(600, dtype=torch.int64), rows).sha256() == whole
    assert ImageSet(images, None, rows.flip(0)).sha256() != whole
    assert ImageSet(images[rows].reshape(500, 1, 2, 8), None).sha256() != whole
    changed = images[rows].clone()
    changed[-1, 0, -1, -1] ^= 1
    assert ImageSet(changed, None).sha256() != whole


@pytest.mark.parametrize(("channels", "is_turned"), [(1, True), (3, False)])
def test_only_grey_images_are_turned_unless_asked_for(channels, is_turned):
    config = replace(TINY, augment="auto")
    trainer = gan._Trainer(config, torch.rand(4, channels, 32, 32), torch.device("cpu"))
    assert (trainer.ranges is not None) == is_turned


def test_diverged_training_says_so(public, tmp_path):
    with pytest.raises(FloatingPointError, match="losses are .*nan.* at step 2"):
        _train(TINY, public * float("nan"), tmp_path)


def test_public_images_must_fit(tmp_path):
    with pytest.raises(ValueError, match=r"public must be .* a side of .* got \(1, 28, 28\)"):
        _train(TINY, torch.rand(4, 1, 28, 28), tmp_path)


def test_faces_of_64_pixels(tmp_path):
    config = replace(TINY, steps=1, critic_steps=1, width=0.02, critic_width=0.05, augment="none")
    prior = _train(config, torch.rand(8, 3, 64, 64), tmp_path)
    assert prior.generator(torch.randn(2, 100)).shape == (2, 3, 64, 64)
    channels = [
        m.weight.shape[0]
        for m in Generator(1, (3, 64, 64)).modules()
        if hasattr(m, "output_padding")
    ]
    kernels = [
        m.weight.shape[:2]
        for m in Critic(1, (3, 64, 64)).modules()
        if isinstance(m, torch.nn.Conv2d)
    ]
    assert channels == [512, 256, 128, 64]  # input channels of the transposed convolutions
    assert [tuple(k) for k in kernels] == [(64, 3), (128, 64), (256, 128), (512, 256), (1, 512)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
        ({"lr": -1.0}, "lr must be positive, got -1.0"),
        ({"width": 0.0}, "width must be positive, got 0.0"),
        ({"augment": "blur"}, "augment must be one of .* got 'blur'"),
    ],
)
def test_bad_configuration(change, message):
    with pytest.raises(ValueError, match=message):
        GanConfig(**change)

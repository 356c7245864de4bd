# SPDX-License-Identifier: Apache-2.0
"""PLG-MI: pseudo-labels, the written losses, conditional networks, the GAN of one target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bido_ext.lab.attacks.plg import (
    PLG,
    ConditionalGenerator,
    PlgConfig,
    PlgGan,
    PlgGanConfig,
    ProjectionDiscriminator,
    gan,
    invert_plg,
    load_plg_gan,
    max_margin_loss,
    train_plg_gan,
)
from bido_ext.lab.attacks.plg.loss import hinge_loss
from bido_ext.lab.attacks.plg.pseudo import Pool, pseudo_labelled
from bido_ext.lab.attacks.plg.views import DRAWS, view
from bido_ext.lab.data import ImageSet
from bido_ext.lab.data.augment import AffineRange
from bido_ext.lab.models import build_model
from bido_ext.lab.models.checkpoint import weights_digest

CPU = torch.device("cpu")
TINY = PlgGanConfig(
    steps=3, batch_size=4, critic_steps=1, width=0.05, critic_width=0.05, top_n=4,
    checkpoint_every=1,
)  # fmt: skip


@pytest.fixture
def target():
    torch.manual_seed(0)
    return build_model("mcnn", 5).eval()


@pytest.fixture(scope="module")
def public():
    return ImageSet(torch.rand(12, 1, 32, 32, generator=torch.Generator().manual_seed(1)), None)


def trained(target, public, folder, **changes):
    return train_plg_gan(replace(TINY, **changes), target, public, folder, progress=False)


def test_the_written_losses():
    logits, labels = torch.tensor([[1.0, 5, 3], [4, 0, 9]]), torch.tensor([1, 0])
    assert max_margin_loss(logits, labels).tolist() == [-2, 5]
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.25])
    assert hinge_loss(real, fake) == pytest.approx(0.5 / 2 + 1.25 / 2)
    sure = (torch.tensor([[40.0, 0, 0]], requires_grad=True), torch.tensor([0]))
    slope = torch.autograd.grad(max_margin_loss(*sure).sum(), sure[0])[0]
    assert slope[0, 0] == -1, "where cross-entropy has no gradient left"


class Brightness(nn.Module):
    """Class 0 is the bright one of two."""

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        return torch.stack([mean, 1 - mean], 1) * 20


def test_pseudo_labels_are_the_images_that_the_target_is_surest_of():
    images = torch.linspace(0, 1, 11)[:, None, None, None].expand(-1, 1, 16, 16).contiguous()
    found = pseudo_labelled(Pool(ImageSet(images, None), None, 3, 0), Brightness(), 2, CPU)
    assert found.labels.tolist() == [0, 0, 1, 1]
    told = found.tensors[0].mean((1, 2, 3))
    torch.testing.assert_close(told, torch.tensor([1, 0.9, 0, 0.1]), atol=1 / 255, rtol=0)
    with pytest.raises(ValueError, match="top_n must be at most the 11 public images, got 12"):
        pseudo_labelled(Pool(ImageSet(images, None), None, 3, 0), Brightness(), 12, CPU)


def test_augmented_versions_are_in_the_pool_and_the_same_when_drawn_again():
    images = torch.rand(600, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    pool = Pool(ImageSet(images, None), AffineRange(rotation=0.5, log_scale=0.9), 2, 5)
    assert len(pool) == 1800
    found = pseudo_labelled(pool, Brightness(), 1800, CPU)
    everything = torch.cat([pool.images(*batch) for batch in pool.batches()])
    assert not torch.equal(everything[600:1200], everything[1200:])
    torch.testing.assert_close(everything[:600], images)
    order = Brightness()(everything).softmax(1)[:, 0].argsort(descending=True, stable=True)
    best = found.tensors[0][:5].mean((1, 2, 3))
    torch.testing.assert_close(
        best, everything[order[:5]].mean((1, 2, 3)), atol=1 / 255, rtol=0, check_stride=False
    )


def test_a_view_belongs_to_its_image():
    images = torch.rand(3, 3, 16, 16)
    draws = torch.rand(3, DRAWS)
    torch.testing.assert_close(view(images[1:2], draws[1:2]), view(images, draws)[1:2])
    middle = torch.full((3, DRAWS), 0.5)
    middle[:, 0] = 1 - 1e-7  # the whole area, unturned; a draw of 1/2 does not mirror
    torch.testing.assert_close(view(images, middle), images, atol=1e-4, rtol=0)
    middle[:, 3] = 0
    torch.testing.assert_close(view(images, middle), images.flip(3), atol=1e-4, rtol=0)
    grey = images[:, :1].contiguous()
    torch.testing.assert_close(view(grey, middle), grey, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 64, 64)])
def test_networks_are_conditional(shape):
    torch.manual_seed(0)
    generator = ConditionalGenerator(4, 0.1, shape).eval()
    critic = ProjectionDiscriminator(4, 0.1, shape)
    z = torch.randn(2, 128)
    made = generator(z, torch.tensor([1, 3]))
    assert made.shape == (2, *shape)
    assert made.min() >= 0
    assert made.max() <= 1
    scores = [critic.eval()(made, torch.tensor(labels)) for labels in ([1, 3], [1, 2])]
    assert scores[0][0] == scores[1][0] != scores[0][1] != scores[1][1]
    with torch.no_grad():
        generator.blocks[0].norm1.shift.weight[3] += 1
    other = generator(z, torch.tensor([1, 3]))
    assert torch.equal(other[0], made[0])
    assert not torch.equal(other[1], made[1])


def test_layers_of_the_discriminator_have_spectral_norm_1():
    torch.manual_seed(0)
    critic = ProjectionDiscriminator(4, 0.1)
    with torch.no_grad():
        for _ in range(50):  # power iterations
            critic(torch.rand(2, 1, 32, 32), torch.tensor([0, 1]))
    critic.eval()
    layers = [m for m in critic.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]
    assert len(layers) == 3 * 3 + 2
    for layer in layers:
        top = float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2))
        assert top == pytest.approx(1, abs=0.02)


def test_training_leaves_the_target_alone(target, public, tmp_path):
    before = weights_digest(target)
    made = trained(target, public, tmp_path)
    assert made.target == weights_digest(target) == before
    assert all(value.requires_grad and value.grad is None for value in target.parameters())
    assert not made.generator.training
    loaded = load_plg_gan(tmp_path)
    assert weights_digest(loaded.generator) == weights_digest(made.generator)
    assert weights_digest(loaded.discriminator) == weights_digest(made.discriminator)


def test_the_targets_margin_shapes_the_generator(target, public, tmp_path):
    with_it, without = (
        trained(target, public, tmp_path / str(weight), inversion_weight=weight)
        for weight in (0.2, 0.0)
    )
    assert weights_digest(with_it.generator) != weights_digest(without.generator)


def test_a_killed_training_ends_as_the_whole_one(target, public, tmp_path, monkeypatch):
    whole = trained(target, public, tmp_path / "whole")
    advance = gan._Trainer.advance

    def killed_at_step_2(self):
        if self.step == 2:
            raise KeyboardInterrupt
        advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(gan._Trainer, "advance", killed_at_step_2)
        with pytest.raises(KeyboardInterrupt):
            trained(target, public, tmp_path / "killed")
    with pytest.raises(ValueError, match="stopped at step 2 of 3; finish it"):
        load_plg_gan(tmp_path / "killed")
    resumed = trained(target, public, tmp_path / "killed")
    assert weights_digest(resumed.generator) == weights_digest(whole.generator)
    assert weights_digest(resumed.discriminator) == weights_digest(whole.discriminator)


def test_the_gan_of_another_target_is_refused(target, public, tmp_path):
    made = trained(target, public, tmp_path)
    torch.manual_seed(1)
    other = build_model("mcnn", 5)
    with pytest.raises(ValueError, match=r"the PLG-MI GAN in .* was trained for the target"):
        trained(other, public, tmp_path)
    config = PLG.settings("smoke")
    with pytest.raises(ValueError, match=r"--force-foreign-gan"):
        invert_plg(config, other, made, [0], progress=False)
    forced = invert_plg(config, other, made, [0, 2], force_foreign_gan=True, progress=False)
    assert forced.images.shape == (3, 2, 1, 32, 32)
    with pytest.raises(ValueError, match="target must have the 5 classes of its GAN, it has 7"):
        invert_plg(config, build_model("mcnn", 7), made, [0], force_foreign_gan=True)


def test_the_search_widens_the_margin():
    torch.manual_seed(0)
    target = nn.Sequential(nn.Flatten(), nn.Linear(1024, 5))
    generator = ConditionalGenerator(5, 0.1).eval()
    prior = PlgGan(generator, None, weights_digest(target), [], 0.0, Path())
    margins = []
    for steps in (1, 30):
        found = invert_plg(
            PlgConfig(steps=steps, restarts=2), target, prior, [4, 1], progress=False
        )
        images, labels = found.images.flatten(0, 1), torch.tensor([4, 1, 4, 1])
        margins.append(float(max_margin_loss(target(images), labels).mean().detach()))
        remade = generator(found.latents.flatten(0, 1), labels)
        torch.testing.assert_close(images, remade.detach())
    assert margins[1] < margins[0] - 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_n": 0}, "top_n must be at least 1"),
        ({"inversion_weight": -1.0}, "inversion_weight must be at least 0"),
        ({"pool_views": -1}, "pool_views must be at least 0"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)

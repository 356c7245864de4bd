# SPDX-License-Identifier: Apache-2.0
"""KED-MI: losses by hand, a GAN that knows its target, rows on their own, exact continuation."""

import copy
from dataclasses import replace

import pytest
import torch

from bido_ext.lab.attacks import KedConfig, KedGanConfig, invert_ked, load_ked_gan, train_ked_gan
from bido_ext.lab.attacks.gan import Gan
from bido_ext.lab.attacks.ked import (
    MinibatchDiscrimination,
    TargetDiscriminator,
    gan,
    inversion,
    losses,
)
from bido_ext.lab.attacks.networks import Critic, Generator
from bido_ext.lab.models import build_model

TINY = KedGanConfig(
    steps=3, batch_size=8, critic_steps=2, width=0.05, critic_width=0.1, checkpoint_every=2
)
SHORT = KedConfig(steps=4, restarts=2, samples=3, checkpoint_every=2)


@pytest.fixture(scope="module")
def public():
    return torch.rand(20, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def target():
    torch.manual_seed(0)
    return build_model("mcnn", 5).eval()


@pytest.fixture(scope="module")
def prior(public, target, tmp_path_factory):
    return _train(TINY, target, public, tmp_path_factory.mktemp("gan"))


def _train(config, target, public, folder, **options):
    return train_ked_gan(config, target, public, folder, progress=False, **options)


def _invert(config, target, prior, classes=range(5), **options):
    return invert_ked(config, target, prior, classes, progress=False, **options)


def _weights(result):
    return [*result.generator.state_dict().values(), *result.discriminator.state_dict().values()]


def test_minibatch_discrimination_is_the_double_loop():
    layer, features = MinibatchDiscrimination(6, kernels=3, dim=2).double(), torch.randn(4, 6) * 0.3
    features = features.double()
    expected = torch.zeros(4, 3).double()
    for b in range(3):
        rows = features @ layer.weight[:, b]
        for i in range(4):
            for j in range(4):
                if i != j:
                    expected[i, b] += torch.exp(-(rows[i] - rows[j]).abs().sum())
    torch.testing.assert_close(layer(features), expected)
    assert (layer(features[:1]) == 0).all()


def test_alone_is_a_batch_of_one():
    discriminator, images = TargetDiscriminator(5, 0.1), torch.rand(3, 1, 32, 32)
    one_by_one = torch.cat([discriminator(image[None]) for image in images])
    torch.testing.assert_close(discriminator.alone(images), one_by_one)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 64, 64)])
def test_full_width_has_the_published_features(shape):
    discriminator = TargetDiscriminator(7, 1.0, shape)
    convolutions = [m for m in discriminator.body if isinstance(m, torch.nn.Conv2d)]
    expected = {1: [(64, 5), (128, 5), (256, 5)], 3: [(64, 5), (128, 5), (256, 5), (256, 3)]}
    assert [(m.out_channels, m.kernel_size[0]) for m in convolutions] == expected[shape[0]]
    assert discriminator.minibatch.weight.shape == (4096, 64, 50)
    assert discriminator.head.weight.shape == (7, 4160)


def test_losses_are_those_of_k_plus_1_classes():
    logits = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    with_fake = torch.cat([logits, torch.zeros(2, 1).double()], 1).log_softmax(1)
    fake = with_fake[:, 2]
    torch.testing.assert_close(losses.fakeness_loss(logits), -fake)
    torch.testing.assert_close(losses.realness_loss(logits), -(1 - fake.exp()).log())
    p = torch.tensor([[0.25, 0.75], [1.0, 0.0]], dtype=torch.float64)
    expected = -(p * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(losses.soft_cross_entropy(logits, p), expected)
    even = losses.mean_entropy(torch.zeros(3, 4).double())
    assert float(even) == pytest.approx(torch.tensor(4.0).log().item())
    matched = losses.feature_matching(
        torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    )
    assert matched == pytest.approx((2 + 1) / 2)


def test_gan_losses_are_the_written_sums(public, target):
    trainer = gan._Trainer(replace(TINY, augment="none"), target, public, torch.device("cpu"))
    d, g = trainer.critic, trainer.generator

    def draws(random):
        first = public[torch.randint(20, (8,), generator=random)]
        second = public[torch.randint(20, (8,), generator=random)]
        return first, second, torch.randn(8, 100, generator=random)

    found = trainer.critic_loss(torch.Generator().manual_seed(1))
    x, u, z = draws(torch.Generator().manual_seed(1))
    lse = lambda images: d(images).logsumexp(1)  # noqa: E731
    softplus = torch.nn.functional.softplus
    supervised = -(target(x).softmax(1) * d(x).log_softmax(1)).sum(1).mean()
    unsupervised = (softplus(lse(u)) - lse(u)).mean() + softplus(lse(g(z))).mean()
    torch.testing.assert_close(found, supervised + 0.5 * unsupervised, rtol=1e-4, atol=1e-4)
    found = trainer.generator_loss(torch.Generator().manual_seed(2))
    random = torch.Generator().manual_seed(2)
    u = public[torch.randint(20, (8,), generator=random)]
    fake = g(torch.randn(8, 100, generator=random))
    p = d(fake).softmax(1)
    expected = (d.features(fake).mean(0) - d.features(u).mean(0)).abs().mean()
    expected = expected - 1e-4 * 64 / 8 * (p * p.log()).sum()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_target_stays_as_it_is(public, target, tmp_path):
    before = {name: value.clone() for name, value in target.state_dict().items()}
    target.train()
    _train(TINY, target, public, tmp_path)
    assert not target.training
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_a_training_starts_from_a_public_prior(public, target, tmp_path):
    torch.manual_seed(1)
    start = Gan(Generator(0.05), Critic(0.1), [], 0.0, tmp_path)
    config = replace(TINY, steps=1, critic_steps=1, lr=1e-12)
    found = _train(config, target, public, tmp_path / "a", start=start)
    for mine, theirs in zip(
        found.generator.parameters(), start.generator.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
    for i in (0, 3, 6):  # the critic has no norm behind its first convolution
        mine, theirs = found.discriminator.body[i], start.critic.layers[max(0, i - 1)]
        torch.testing.assert_close(mine.weight, theirs.weight)
    again = _train(config, target, public, tmp_path / "a", start=start)
    assert again.history == found.history
    for other in (None, Gan(Generator(0.05), Critic(0.1), [], 0.0, tmp_path)):
        with pytest.raises(ValueError, match="start"):
            _train(config, target, public, tmp_path / "a", start=other)
    wide = Gan(Generator(0.1), Critic(0.1), [], 0.0, tmp_path)
    with pytest.raises(ValueError, match="start must have a generator of width"):
        _train(config, target, public, tmp_path / "b", start=wide)


@pytest.mark.parametrize("augment", ["none", "public-digits"])
def test_interrupted_gan_ends_as_the_whole_one(public, target, tmp_path, monkeypatch, augment):
    config = replace(TINY, augment=augment)
    whole = _train(config, target, public, tmp_path / "whole")
    advance = gan._Trainer.advance

    def killed_at_step_2(self):
        if self.step == 2:
            raise KeyboardInterrupt
        advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(gan._Trainer, "advance", killed_at_step_2)
        with pytest.raises(KeyboardInterrupt):
            _train(config, target, public, tmp_path / "killed")
    with pytest.raises(ValueError, match="stopped at step 2 of 3; finish it"):
        load_ked_gan(tmp_path / "killed")
    resumed = _train(config, target, public, tmp_path / "killed")
    assert all(map(torch.equal, _weights(whole), _weights(resumed)))


def test_gan_comes_back_from_its_file(prior):
    loaded = load_ked_gan(prior.path.parent)
    assert all(map(torch.equal, _weights(prior), _weights(loaded)))
    assert loaded.target == prior.target


def test_shapes(target, prior):
    found = _invert(SHORT, target, prior, [3, 1])
    assert found.images.shape == (6, 2, 1, 32, 32)
    assert found.latents.shape == (6, 2, 100)
    with torch.no_grad():
        images = prior.generator(found.latents.flatten(0, 1))
        confidence = target(images).softmax(1).view(6, 2, 5)[:, [0, 1], [3, 1]]
    torch.testing.assert_close(found.images.flatten(0, 1), images)
    torch.testing.assert_close(found.target_confidence, confidence)


def test_inversion_is_adam_on_the_written_loss(target, prior):
    config = replace(SHORT, restarts=1, samples=1, steps=2, logvar=0.5)
    mu = torch.zeros(5, 100, requires_grad=True)
    logvar = torch.full((5, 100), 0.5, requires_grad=True)
    adam = torch.optim.Adam([mu, logvar], 2e-2)
    rows = inversion.Rows.of(range(5), 1, 5, 0)
    for step in (1, 2):
        x = prior.generator(mu + (logvar / 2).exp() * rows.noise("ked", step, 100))
        lse = torch.cat([prior.discriminator(image[None]) for image in x]).logsumexp(1)
        ce = torch.nn.functional.cross_entropy(target(x), torch.arange(5), reduction="sum")
        adam.zero_grad()
        ((torch.nn.functional.softplus(lse) - lse).sum() + 100 * ce).backward()
        adam.step()
    z = mu + (logvar / 2).exp() * rows.noise("ked sample", 0, 1, 100)[:, 0]
    found = _invert(config, target, prior).latents[0]
    torch.testing.assert_close(found, z.detach(), rtol=1e-4, atol=1e-4)


def test_result_does_not_depend_on_what_else_is_attacked(target, prior):
    # In float64: products of another size add in another order, and Adam's first steps turn a
    # rounding error of a gradient near 0 into a whole step.
    target, prior = copy.deepcopy((target, prior))
    target.double()
    prior.generator.double(), prior.discriminator.double()
    whole = _invert(SHORT, target, prior, force_foreign_gan=True)
    cut = _invert(replace(SHORT, batch_size=3), target, prior, force_foreign_gan=True)
    torch.testing.assert_close(whole.latents, cut.latents, rtol=1e-6, atol=1e-8)
    one = replace(SHORT, restarts=1)
    some = _invert(one, target, prior, [4, 2], force_foreign_gan=True)
    torch.testing.assert_close(whole.latents[:3, [4, 2]], some.latents, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("batch_size", [128, 4])
def test_interrupted_attack_ends_as_the_whole_one(target, prior, tmp_path, monkeypatch, batch_size):
    config = replace(SHORT, batch_size=batch_size)
    whole = _invert(config, target, prior, run_dir=tmp_path / "whole")
    advance, calls = inversion.KedSearch.advance, []

    def killed_at_a_last_step(self, step):
        calls.append(step)
        if step == 4 and len(calls) > 10 * (batch_size == 4):
            raise KeyboardInterrupt
        return advance(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(inversion.KedSearch, "advance", killed_at_a_last_step)
        with pytest.raises(KeyboardInterrupt):
            _invert(config, target, prior, run_dir=tmp_path / "killed")
    torch.rand(3)
    resumed = _invert(config, target, prior, run_dir=tmp_path / "killed")
    assert torch.equal(whole.latents, resumed.latents)
    assert torch.equal(whole.images, resumed.images)


def test_gan_of_another_target_is_refused_unless_forced(public, prior):
    torch.manual_seed(1)
    other = build_model("mcnn", 5).eval()
    with pytest.raises(ValueError, match=r"was trained for the target .*--force-foreign-gan"):
        _invert(SHORT, other, prior)
    with pytest.raises(ValueError, match="was trained for the target"):
        _train(TINY, other, public, prior.path.parent)
    assert _invert(SHORT, other, prior, force_foreign_gan=True).images.shape[0] == 6


def test_gan_of_as_many_other_images_is_refused(public, target, prior):
    with pytest.raises(ValueError, match="was made with public_sha256="):
        _train(TINY, target, public.flip(0), prior.path.parent)


def test_faces_of_64_pixels(tmp_path):
    target = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 7))
    config = replace(TINY, steps=1, critic_steps=1, width=0.02, critic_width=0.05, augment="none")
    faces = _train(config, target, torch.rand(8, 3, 64, 64), tmp_path)
    found = _invert(replace(SHORT, steps=1), target, faces, [6, 0])
    assert found.images.shape == (6, 2, 3, 64, 64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KedConfig(samples=0), "samples must be at least 1, got 0"),
        (lambda: KedConfig(lr=0.0), "lr must be positive, got 0.0"),
        (lambda: KedGanConfig(entropy_weight=-1.0), "entropy_weight must be at least 0, got -1.0"),
        (lambda: KedGanConfig(steps=0), "steps must be at least 1, got 0"),
    ],
)
def test_bad_configuration(make, message):
    with pytest.raises(ValueError, match=message):
        make()

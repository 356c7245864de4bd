# SPDX-License-Identifier: Apache-2.0
"""LOKT: labels alone, one budget for GAN and surrogates, surrogates that learn, resumption."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bido_ext.lab.attacks import BlackBox, BudgetError, surrogates
from bido_ext.lab.attacks.lokt import (
    LOKT,
    AuxiliaryDiscriminator,
    LoktGanConfig,
    gan,
    invert_lokt,
    load_lokt_gan,
    train_lokt_gan,
)
from bido_ext.lab.attacks.lokt.inversion import images_of_each_class
from bido_ext.lab.attacks.lokt.labelled import Labelled
from bido_ext.lab.attacks.lokt.network import ClassHead
from bido_ext.lab.attacks.plg.loss import max_margin_loss
from bido_ext.lab.data import ImageSet
from bido_ext.lab.models.checkpoint import weights_digest

CPU = torch.device("cpu")
SHAPE = (1, 16, 16)
TINY = LoktGanConfig(
    steps=5, alone=2, batch_size=4, critic_steps=2, width=0.05, critic_width=0.05,
    checkpoint_every=1, augment="none",
)  # fmt: skip
CONFIG = replace(LOKT.settings("smoke"), surrogates="small-1", restarts=2)


class Brightness(nn.Module):
    """Three classes by the brightness of the upper half."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((), 40.0))

    def forward(self, x):
        mean = x[:, :, :8].mean((1, 2, 3))
        return -self.weight * (mean[:, None] - torch.tensor([0.3, 0.5, 0.7])).abs()


@pytest.fixture(scope="module")
def public():
    random = torch.Generator().manual_seed(1)
    base = torch.rand(60, 1, 1, 1, generator=random)
    return ImageSet((base + 0.1 * torch.randn(60, *SHAPE, generator=random)).clamp(0, 1), None)


def box(model=None, **options):
    return BlackBox(model or Brightness(), labels_only=True, **options)


def trained(public, folder, target=None, **changes):
    config = replace(TINY, **changes)
    return train_lokt_gan(config, target or box(), public, folder, progress=False)


def test_the_discriminator_has_two_heads():
    torch.manual_seed(0)
    critic = AuxiliaryDiscriminator(3, 0.1, SHAPE)
    score, logits = critic(torch.rand(2, *SHAPE))
    assert score.shape == (2,)
    assert logits.shape == (2, 3)
    images = torch.rand(2, *SHAPE)
    critic.eval()
    assert torch.equal(ClassHead(critic)(images), critic(images)[1])


def test_the_written_losses(public):
    config = replace(TINY, class_weight=1.5)
    trainer = gan._Trainer(config, box(), public, CPU)
    for network in (trainer.generator, trainer.critic):
        network.eval()  # no step of the spectral norm between two looks
    for step in (0, 2):  # the first two are alone
        trainer.step = step
        fake, wanted = trainer._made(torch.Generator().manual_seed(9))
        score, logits = trainer.critic(fake)
        loss = -F.logsigmoid(score).mean()
        if step:
            loss = loss + 1.5 * F.cross_entropy(logits, wanted)
        told = trainer.generator_loss(torch.Generator().manual_seed(9))
        torch.testing.assert_close(told, loss)
    for step, queries in ((0, 0), (2, 4)):
        trainer.step = step
        found = trainer.critic_loss(torch.Generator().manual_seed(3))
        assert trainer.target.queries == queries
        random = torch.Generator().manual_seed(3)
        real, fake = trainer.draw(random)[0], trainer._made(random)[0]
        score, logits = trainer.critic(fake)
        loss = -F.logsigmoid(-score).mean() - F.logsigmoid(trainer.critic(real)[0]).mean()
        if step:
            loss = loss + 1.5 * F.cross_entropy(logits, Brightness()(fake).argmax(1))
        torch.testing.assert_close(found, loss)


def test_the_generator_comes_to_make_what_the_target_calls_by_the_wanted_class(public, tmp_path):
    def agreement(steps):
        made = trained(
            public, tmp_path / str(steps), steps=steps, alone=1, batch_size=24, critic_steps=1,
            width=0.15, critic_width=0.15, lr=2e-3, checkpoint_every=200,
        )  # fmt: skip
        pairs = Labelled(made.generator, 40, 7, CPU)
        pairs.ask(box(), 50, None, {}, resume=False)
        return float((pairs.labels == pairs.wanted).float().mean())

    assert agreement(150) > agreement(2) + 0.2


def test_access(public, tmp_path):
    with pytest.raises(TypeError, match="target must be a BlackBox: a label only attack has no"):
        trained(public, tmp_path, Brightness())
    made = trained(public, tmp_path)
    with pytest.raises(TypeError, match="target must be a BlackBox: a label only attack has no"):
        invert_lokt(CONFIG, Brightness(), made, [0])
    other = Brightness()
    other.weight.data += 1
    with pytest.raises(ValueError, match="was trained for the target"):
        invert_lokt(CONFIG, box(other), made, [0])
    with pytest.raises(ValueError, match="was trained for the target"):
        trained(public, tmp_path, box(other))
    forced = invert_lokt(CONFIG, box(other), made, [0], force_foreign_gan=True, progress=False)
    assert forced.images.shape == (2, 1, *SHAPE)


def test_every_query_counts(public, tmp_path):
    target = box()
    made = trained(public, tmp_path, target)
    assert made.queries == target.queries == TINY.queries == 3 * 2 * 4
    assert load_lokt_gan(tmp_path).queries == made.queries
    found = invert_lokt(CONFIG, target, made, [2, 0], progress=False)
    assert found.queries == target.queries == 24 + 3 * CONFIG.labelled + 2 * 2
    assert set(found.target_confidence.unique().tolist()) <= {0.0, 1.0}
    alone = invert_lokt(replace(CONFIG, surrogates="critic"), box(), made, [2, 0], progress=False)
    assert alone.queries == 24 + 2 * 2, "the critic's classes need no further labels"


def test_one_budget_for_gan_and_surrogates(public, tmp_path):
    for budget in (40, 55, 90, 1000):
        target = box(budget=budget)
        made = trained(public, tmp_path / str(budget), target, budget=budget)
        found = invert_lokt(replace(CONFIG, budget=budget), target, made, range(3), progress=False)
        assert found.queries == target.queries <= budget
        assert found.queries > 0.6 * budget or budget == 1000
    with pytest.raises(ValueError, match=r"budget must leave a query to each of 6 steps of LOKT's"):
        trained(public, tmp_path / "none", budget=7)
    with pytest.raises(ValueError, match="budget must be above 32: 24 queries for the GAN, 6 for"):
        invert_lokt(replace(CONFIG, budget=32), box(), trained(public, tmp_path / "all"), range(3))
    assert images_of_each_class(replace(CONFIG, budget=33), 24, 6, 3) == 1
    with pytest.raises(BudgetError, match="24 of 25 queries are spent"):
        box(budget=25, spent=24).labels(torch.rand(2, *SHAPE))


class Grey(nn.Module):
    """Even images, as bright as the first latent says."""

    num_classes = 3

    def forward(self, z, labels):
        return z[:, :1, None, None].sigmoid().expand(-1, *SHAPE)


def test_surrogates_come_to_answer_as_the_target():
    pairs = Labelled(Grey(), 40, 0, CPU)
    pairs.ask(box(), 32, None, {}, resume=False)
    assert len(pairs.labels.unique()) == 3
    assert torch.equal(pairs.labels, Brightness()(pairs.images(torch.arange(120))).argmax(1))

    def right(steps):
        how = surrogates.Distillation(("small-1",), steps, 0.1, 0.9, 5e-4, cosine=True, width=0.3)
        (student,) = surrogates.distil(
            how, lambda random: pairs.draw(20, random), 3, SHAPE, seed=0, inputs={}, path=None,
            resume=False, progress=False, every=100, device=CPU,
        )  # fmt: skip
        with torch.no_grad():
            told = student(pairs.images(torch.arange(120))).argmax(1)
        return float((told == pairs.labels).float().mean())

    assert right(80) > max(right(1) + 0.2, 0.7)


def test_the_rate_falls_along_a_cosine():
    how = surrogates.Distillation(("small-1",), 4, 0.2, 0.9, 0.0, cosine=True)
    rates = [how.rate(step) for step in (1, 2, 3, 4)]
    assert rates == pytest.approx([0.2, 0.1 * (1 + 0.5**0.5), 0.1, 0.1 * (1 - 0.5**0.5)])


def test_the_loss_is_the_mean_over_surrogates(public, tmp_path):
    made = trained(public, tmp_path)
    networks = [ClassHead(made.discriminator), surrogates.Student(1, 3, SHAPE, 0.1).eval()]
    from bido_ext.lab.attacks.lokt.inversion import _Lokt
    from bido_ext.lab.attacks.rows import Rows

    search = _Lokt(CONFIG, networks, made.generator, Rows.of([0, 2], 1, 3, 0), CPU)
    images, labels = torch.rand(4, *SHAPE), torch.tensor([0, 2, 0, 2])
    each = [max_margin_loss(network(images), labels) for network in networks]
    torch.testing.assert_close(search.margins(images, labels), (each[0] + each[1]) / 2)


def test_a_killed_gan_resumes_to_the_same_bits(public, tmp_path, monkeypatch):
    whole = trained(public, tmp_path / "whole")
    step = gan._Trainer.advance

    def killed(self):
        if self.step == 3:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(gan._Trainer, "advance", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(public, tmp_path / "killed")
    with pytest.raises(ValueError, match=r"stopped at step 3 of 5"):
        load_lokt_gan(tmp_path / "killed")
    torch.manual_seed(77)  # the global generator has no say
    target = box()
    resumed = trained(public, tmp_path / "killed", target)
    assert weights_digest(resumed.generator) == weights_digest(whole.generator)
    assert weights_digest(resumed.discriminator) == weights_digest(whole.discriminator)
    assert target.queries == 2 * 2 * 4, "what was asked is not asked again"


def test_a_killed_attack_asks_for_no_label_twice(public, tmp_path, monkeypatch):
    made = trained(public, tmp_path / "gan")
    config = replace(CONFIG, surrogate_steps=4, checkpoint_every=2)

    def attack(folder, target):
        return invert_lokt(config, target, made, range(3), run_dir=folder, progress=False)

    whole = attack(tmp_path / "whole", box())
    descend = surrogates._descend

    def killed(*arguments):
        if arguments[-1] == 4:
            raise KeyboardInterrupt
        descend(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(surrogates, "_descend", killed)
        with pytest.raises(KeyboardInterrupt):
            attack(tmp_path / "killed", box())
    target = box()
    resumed = attack(tmp_path / "killed", target)
    assert torch.equal(resumed.latents, whole.latents)
    assert target.queries == 6, "the last look alone"
    assert resumed.queries == whole.queries
    config = replace(config, surrogate_lr=0.5)
    with pytest.raises(ValueError, match="was made with surrogate_lr=0.1, now surrogate_lr=0.5"):
        attack(tmp_path / "killed", box())


def test_an_answer_that_is_nan_stops_the_gan(public, tmp_path):
    class Broken(Brightness):
        def forward(self, x):
            return super().forward(x) * float("nan")

    with pytest.raises(FloatingPointError, match="the target's answer is NaN at GAN step 3"):
        trained(public, tmp_path, box(Broken()))


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (CONFIG, {"labelled": 0}, "labelled must be at least 1"),
        (CONFIG, {"surrogate_batch": 1}, "surrogate_batch must be at least 2"),
        (CONFIG, {"surrogate_momentum": 1.0}, "surrogate_momentum must be below 1"),
        (CONFIG, {"budget": -1}, "budget must be at least 0"),
        (TINY, {"alone": -1}, "alone must be at least 0"),
        (TINY, {"budget_share": 1.0}, "budget_share must be below 1"),
    ],
)
def test_bad_settings(config, change, message):
    with pytest.raises(ValueError, match=message):
        replace(config, **change)


def test_unknown_surrogates(public, tmp_path):
    made = trained(public, tmp_path)
    with pytest.raises(ValueError, match="arch must be one of"):
        invert_lokt(replace(CONFIG, surrogates="small-x"), box(), made, [0], progress=False)

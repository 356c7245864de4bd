# SPDX-License-Identifier: Apache-2.0
"""Trap-MID: the trapdoor images, the step of the triggers, and the trapdoor in the trained model."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from bido_ext.lab.defences import Defence, Plan, Step
from bido_ext.lab.defences.trap_mid import random_view
from bido_ext.lab.models import build_model
from bido_ext.lab.training.loss import StepLoss

PLAN = Plan(num_classes=5, images=20, batch_size=10, epochs=1)


def prepared(weights=None, arch="mcnn"):
    torch.manual_seed(0)
    model = build_model(arch, 5)
    defence = Defence("trap-mid", {"augment": 0.0, **(weights or {})})
    defence.prepare(model, PLAN)
    return model, defence, defence.rules[0]


@pytest.fixture
def batch():
    return torch.rand(10, 1, 32, 32), torch.arange(10) % 5


def test_the_loss_is_a_share_of_each_and_one_forward(batch):
    model, defence, rule = prepared()
    before = copy.deepcopy(model)
    with defence.attached(model) as penalty:
        loss, parts = StepLoss(model, defence, penalty, 1, 1)(*batch, torch.Generator())
    labels = rule.labels(10, torch.Generator())
    trapped = 0.98 * batch[0] + 0.02 * rule.triggers[labels]
    logits = before(torch.cat([batch[0], trapped]))
    wanted = 0.8 * F.cross_entropy(logits[:10], batch[1]) + 0.2 * F.cross_entropy(
        logits[10:], labels
    )
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(parts["ce(trapdoor)"], F.cross_entropy(logits[10:], labels).detach())
    torch.testing.assert_close(model.state_dict(), before.state_dict())  # one forward, in training


def test_triggers_step_against_the_sign_of_their_loss(batch):
    model, _, rule = prepared({"step": 0.25, "discriminator_lr": 0.0})
    rule.triggers[4] = 2.0  # of no image of this step: only the bounds move it
    old, labels = rule.triggers.clone(), torch.arange(10) % 4
    step = Step(model, batch[0], batch[0], batch[1], F.cross_entropy, torch.Generator())
    model.eval()
    rule.learn(step, labels)
    assert all(p.grad is None for p in model.parameters())
    triggers = old.clone().requires_grad_(True)
    trapped = 0.98 * batch[0] + 0.02 * triggers[labels]
    unseen = F.softplus(-rule.discriminator.eval()(trapped)).mean()  # -log of "plain"
    (unseen + F.cross_entropy(model(trapped), labels)).backward()
    wanted = (old - 0.25 * triggers.grad.sign()).clamp(0, 1)
    torch.testing.assert_close(rule.triggers, wanted)
    assert (rule.triggers[4] == 1).all()


def test_the_discriminator_learns_to_tell_trapdoor_images(batch):
    model, _, rule = prepared({"alpha": 0.5, "step": 0.0})
    labels = torch.arange(10) % 5
    step = Step(model.eval(), batch[0], batch[0], batch[1], F.cross_entropy, torch.Generator())
    for _ in range(25):
        rule.learn(step, labels)
    trapped = rule.blend(batch[0], rule.triggers[labels])
    rule.discriminator.train()
    told = rule.discriminator(torch.cat([batch[0], trapped]))
    assert (told[:10] > 0).float().mean() > 0.8
    assert (told[10:] < 0).float().mean() > 0.8


def test_labels_of_a_step_are_even():
    _, _, rule = prepared()
    counts = rule.labels(13, torch.Generator().manual_seed(1)).bincount(minlength=5)
    assert counts.max() - counts.min() <= 1


def test_views_are_those_of_the_paper():
    x = torch.ones(400, 1, 32, 32)
    x[:, :, :, :16] = 0.5
    views = random_view(x, torch.Generator().manual_seed(0))
    plain = sum(
        torch.allclose(view, image, atol=1e-4) for view, image in zip(views, x, strict=True)
    )
    assert 0.06 < plain / 400 < 0.26, "an eighth is neither cropped, mirrored nor turned"
    mirrored = (views[:, 0, 16, 2] > views[:, 0, 16, 29]).float().mean()
    assert 0.4 < mirrored < 0.6
    turned = (views[:, 0, 0, 0] == 0).float().mean()
    assert 0.3 < turned < 0.6, "half are turned, a little of them hardly"


def test_a_trained_model_has_the_trapdoor(batch):
    """Triggers that weigh more than the published ones, so that seconds are enough."""
    model, defence, rule = prepared({"alpha": 0.5, "beta": 0.5}, "lenet3")
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    with defence.attached(model) as penalty:
        loss_of = StepLoss(model, defence, penalty, 1, 1)
        for _ in range(30):
            x = torch.rand(10, 1, 28, 28, generator=generator)
            loss, _ = loss_of(x, batch[1], generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    new = torch.rand(20, 1, 28, 28, generator=generator)
    for label, trigger in enumerate(rule.triggers):
        share = (model(rule.blend(new, trigger)).argmax(1) == label).float().mean()
        assert share > 0.9, f"trigger {label} is answered {share:.0%} of the time"
    assert 0.2 < defence.told()["trapdoor_accuracy"] <= 1

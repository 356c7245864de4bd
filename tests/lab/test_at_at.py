# SPDX-License-Identifier: Apache-2.0
"""AT-AT: adversarial images stay near, aim at another class, and are learnt under it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bido_ext.lab.defences import Defence, Plan
from bido_ext.lab.models import build_model
from bido_ext.lab.training.loss import StepLoss

PLAN = Plan(num_classes=5, images=20, batch_size=10, epochs=1)


def prepared(**weights):
    torch.manual_seed(0)
    model = build_model("mcnn", 5)
    defence = Defence("at-at", weights)
    defence.prepare(model, PLAN)
    return model, defence, defence.rules[0]


def test_images_move_within_epsilon_towards_another_class():
    model, _, rule = prepared(epsilon=0.02, step=0.005, iterations=8.0)
    model.eval()
    x, y = torch.rand(64, 1, 32, 32), torch.arange(64) % 5
    wanted = rule.other_labels(y, torch.Generator().manual_seed(0))
    assert not (wanted == y).any()
    assert set(wanted.tolist()) == {0, 1, 2, 3, 4}
    moved = rule.moved(model, x, wanted, torch.Generator().manual_seed(0))
    assert (moved - x).abs().max() <= 0.02 + 1e-6
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert F.cross_entropy(model(moved), wanted) < F.cross_entropy(model(x), wanted) - 0.01
    assert not moved.requires_grad


def test_one_step_is_the_formula():
    """One iteration from the image itself: x - step * sign of the gradient towards the class."""
    model, _, rule = prepared(epsilon=1.0, step=0.01, iterations=1.0)
    model.eval()
    x, wanted = torch.rand(4, 1, 32, 32), torch.tensor([1, 2, 3, 4])
    noise = 2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) - 1
    start = (x + noise).clamp(0, 1).requires_grad_(True)
    F.cross_entropy(model(start), wanted).backward()
    moved = rule.moved(model, x, wanted, torch.Generator().manual_seed(3))
    torch.testing.assert_close(moved, (start - 0.01 * start.grad.sign()).clamp(0, 1).detach())


def test_the_loss_is_ce_plus_a_share_of_the_adversarial_one():
    model, defence, _ = prepared()
    x, y = torch.rand(10, 1, 32, 32), torch.arange(10) % 5
    with defence.attached(model) as penalty:
        loss, parts = StepLoss(model, defence, penalty, 1, 1)(x, y, torch.Generator())
    torch.testing.assert_close(loss.detach(), parts["ce"] + 0.08 * parts["ce(adversarial)"])
    before = [p.clone() for p in model.parameters()]
    loss.backward()
    assert any(p.grad.abs().max() > 0 for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))

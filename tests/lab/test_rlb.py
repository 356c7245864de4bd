# SPDX-License-Identifier: Apache-2.0
"""RLB-MI: the written reward, agents that learn by it, probabilities alone, counted and budgeted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from bido_ext.lab.attacks import BlackBox, DirectLatents
from bido_ext.lab.attacks.rlb import Agents, RlbConfig, invert_rlb, reward
from bido_ext.lab.attacks.rows import Rows

SHAPE = (1, 2, 2)
CONFIG = RlbConfig(steps=200, lr=5e-3, hidden=32, memory_batch=32, batch_size=4)


class Sectors(nn.Module):
    """Four classes by the signs of the first two pixels around 1/2."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((), 9.0))

    def forward(self, x):
        u, v = (x.flatten(1)[:, :2] - 0.5).unbind(1)
        return self.weight * torch.stack([u.add(v), u.sub(v), v.sub(u), -u - v], 1)


class Plane(nn.Module):
    """Latents in [-1, 1] -> images."""

    def __init__(self, shape=SHAPE):
        super().__init__()
        self.shape = shape
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, z):
        return (z / 2 + 0.5).view(-1, *self.shape)


def plane():
    return DirectLatents(Plane(), 4, SHAPE)


def attacked(config, box=None, classes=range(4)):
    box = BlackBox(Sectors(), labels_only=False) if box is None else box
    return invert_rlb(config, box, plane(), classes, progress=False)


def test_the_written_reward():
    state, action = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1]]), torch.tensor([[0.5] * 3] * 2)
    found = reward(state, action, torch.tensor([0, 0]))
    won = 2 * math.log(0.7) + 2 * math.log(0.5) + 8 * math.log(0.5)
    lost = 2 * math.log(0.3) + 2 * math.log(0.5) + 8 * math.log(1e-7)
    assert found.tolist() == pytest.approx([won, lost], rel=1e-5)
    sure = reward(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0]))
    assert bool(sure.isfinite().all()), "a probability of 0 is no infinity"


def test_actions_and_their_density():
    agents = Agents(Rows.of([0, 1], 1, 4, 0), 3, 8, 1e-3, torch.device("cpu"))
    states, eps = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    action, density = agents.act(states, eps)
    assert action.abs().max() < 1
    layers = [w[1] for w in agents.networks["actor"]]  # of the second row alone
    hidden = ((states[1] @ layers[0] + layers[1]).relu() @ layers[2] + layers[3]).relu()
    mean, log_std = (hidden @ layers[4] + layers[5]).chunk(2, 1)
    spread = torch.distributions.Normal(mean, log_std.exp())
    squashed = torch.distributions.TransformedDistribution(
        spread, [torch.distributions.transforms.TanhTransform(cache_size=1)]
    )
    drawn = (mean + eps[1] * log_std.exp()).tanh()
    torch.testing.assert_close(action[1], drawn)
    torch.testing.assert_close(
        density[1], squashed.log_prob(drawn).mean(1), rtol=1e-3, atol=1e-3
    )  # the published density has 1e-6 in its logarithm


def test_critics_learn_the_reward_and_rows_do_not_touch():
    torch.manual_seed(0)
    states, actions, eps = (torch.rand(2, 64, 3) for _ in range(3))
    rewards = actions[..., 0] * 3
    both = Agents(Rows.of([0, 1], 1, 4, 0), 3, 32, 1e-2, torch.device("cpu"))
    second = Agents(Rows.of([1], 1, 4, 0), 3, 32, 1e-2, torch.device("cpu"))
    before = float((both.value("critic2", states, actions) - rewards).square().mean().detach())
    for _ in range(150):
        both.learn(states, actions, rewards, eps)
    after = float((both.value("critic2", states, actions) - rewards).square().mean().detach())
    assert after < 0.05 * before
    for _ in range(3):
        second.learn(states[1:], actions[1:], rewards[1:], eps[1:])
    again = Agents(Rows.of([0, 1], 1, 4, 0), 3, 32, 1e-2, torch.device("cpu"))
    for _ in range(3):
        again.learn(states, actions, rewards, eps)
    for mine, among in zip(second.networks["actor"], again.networks["actor"], strict=True):
        torch.testing.assert_close(mine[0], among[1], rtol=1e-4, atol=1e-5)


class Corners(nn.Module):
    """Two classes by 16 pixels at once: a random image is seldom far on either side."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16))

    def forward(self, x):
        side = ((x.flatten(1) - 0.5) * self.weight).sum(1) / 2
        return torch.stack([side, -side], 1)


def test_an_agent_learns_where_its_class_is():
    source = DirectLatents(Plane((1, 4, 4)), 16, (1, 4, 4))
    sure = []
    for waits in (16, 10_000):  # the second never learns: a random search
        box = BlackBox(Corners(), labels_only=False)
        config = replace(CONFIG, steps=200, memory_batch=waits)
        found = invert_rlb(config, box, source, range(2), progress=False)
        assert found.queries == box.queries == 2 * 200 + 2
        sure.append(found.target_confidence)
    assert sure[0].min() > sure[1].max() + 0.01


def test_the_latent_mixes_in():
    box = BlackBox(Sectors(), labels_only=False)
    found = attacked(replace(CONFIG, steps=10, mix=0.5), box)
    assert found.queries == box.queries == 4 * 10 * 2 + 4
    assert (found.latents.abs() > 1).any(), "an action alone lies in (-1, 1)"


def test_the_budget_holds():
    config = replace(CONFIG, budget=4 * 20)
    box = BlackBox(Sectors(), labels_only=False, budget=config.budget)
    found = attacked(config, box)
    assert box.queries == found.queries == config.budget
    unlimited = attacked(replace(CONFIG, steps=19))
    assert torch.equal(found.latents, unlimited.latents)


def test_access():
    with pytest.raises(TypeError, match="target must be a BlackBox: a black box attack has no"):
        attacked(CONFIG, Sectors())
    with pytest.raises(PermissionError, match="is told no probabilities"):
        attacked(CONFIG, BlackBox(Sectors(), labels_only=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"mix": 1.0}, "mix must be below 1, got 1.0"),
        ({"budget": -1}, "budget must be at least 0"),
        ({"lr": 0.0}, "lr must be positive"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)

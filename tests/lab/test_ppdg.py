# SPDX-License-Identifier: Apache-2.0
"""PPDG-MI: the written distances, pivots, a tuned copy for each class, two searches that resume."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bido_ext.lab.attacks import DirectLatents, Generator
from bido_ext.lab.attacks.ppa import invert_ppa
from bido_ext.lab.attacks.ppa.inversion import PpaAttack
from bido_ext.lab.attacks.ppdg import (
    PPDG,
    Tuning,
    conditional_transport,
    find_pivots,
    inversion,
    invert_ppdg,
    multi_kernel_mmd,
    tuned,
)
from bido_ext.lab.attacks.ppdg.distances import DISTANCES
from bido_ext.lab.attacks.stylegan2 import StyleGan2
from bido_ext.lab.models.checkpoint import weights_digest

CPU = torch.device("cpu")
SHORT = replace(
    PPDG.settings("smoke"), batch_size=6, checkpoint_every=2, pivot_steps=4, tune_steps=3
)


def plain():
    """An untrained generator hardly reacts to its input: this one does."""
    torch.manual_seed(0)
    made = Generator(0.1).eval()
    with torch.no_grad():
        for weights in made.parameters():
            weights.mul_(3)
    return made


def linear(shape=(1, 32, 32), classes=3):
    torch.manual_seed(1)
    count = shape[0] * shape[1] * shape[2]
    made = nn.Sequential(nn.Flatten(), nn.Linear(count, 8), nn.Tanh(), nn.Linear(8, classes))
    with torch.no_grad():
        made[1].weight.mul_(20 / count**0.5)
        made[3].weight.mul_(5)
    return made


def attacked(config, generator, target, classes=(2, 0), **how):
    return invert_ppdg(config, target, generator, classes, progress=False, **how)


def test_mmd_as_written():
    torch.manual_seed(0)
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64) + 1
    both = torch.cat([x, y])
    far = torch.cdist(both, both).square()
    width = far.sum() / (9 * 8)
    kernel = sum((-far / (width * 2.0**octave)).exp() for octave in (-2, -1, 0, 1, 2))
    signs = torch.cat([torch.full((5,), 1 / 5), torch.full((4,), -1 / 4)]).double()
    torch.testing.assert_close(multi_kernel_mmd(x, y), signs @ kernel @ signs)
    assert multi_kernel_mmd(x, x) == pytest.approx(0, abs=1e-12)
    still = torch.ones(3, 2)
    assert float(multi_kernel_mmd(still, still)) == 0


def test_transport_as_written():
    torch.manual_seed(0)
    x, y = torch.randn(3, 4), torch.randn(2, 4)
    there = back = 0.0
    for a in x:
        plan = torch.stack([a @ b for b in y]).softmax(0)
        there += (
            sum(p * (1 - F.cosine_similarity(a, b, 0)) for p, b in zip(plan, y, strict=True)) / 3
        )
    for b in y:
        plan = torch.stack([a @ b for a in x]).softmax(0)
        back += (
            sum(p * (1 - F.cosine_similarity(a, b, 0)) for p, a in zip(plan, x, strict=True)) / 2
        )
    torch.testing.assert_close(conditional_transport(x, y), (there + back) / 2)


@pytest.mark.parametrize("distance", ["mmd", "ct"])
def test_pivots_and_tuning_come_closer(distance):
    space = DirectLatents(plain())
    tuning = Tuning(
        distance=distance, pivot_steps=60, pivot_lr=0.1, tune_steps=40, tune_lr=1e-3,
        space_samples=200,
    )  # fmt: skip
    tell = DISTANCES[distance]

    def features(images):
        return images.flatten(1) - 0.5

    with torch.no_grad():
        wanted = features(space.synthesis(torch.randn(10, 100) * 0.5 + 1.5))
    before = weights_digest(space)
    starts = find_pivots(replace(tuning, pivot_steps=1), space, wanted, features, 0, 1)
    pivots = find_pivots(tuning, space, wanted, features, 0, 1)
    made = tuned(tuning, space, pivots, wanted, features, 1)
    with torch.no_grad():
        far = [
            float(tell(features(generator.synthesis(z)), wanted))
            for generator, z in ((space, starts), (space, pivots), (made, pivots))
        ]
    assert far[1] < 0.95 * far[0]
    assert far[2] < 0.9 * far[1]
    assert weights_digest(space) == before != weights_digest(made)
    assert all(value.grad is None for value in [*made.parameters(), *space.parameters()])
    other = find_pivots(tuning, space, wanted, features, 0, 2)
    assert not torch.equal(other, pivots)


class Patches(nn.Module):
    """A small world: pictures of 8 x 8 pixels, spread evenly around grey."""

    z_dim, shape = 4, (1, 8, 8)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 64)
        nn.init.zeros_(self.layer.bias)

    def mapping(self, z):
        return z

    def synthesis(self, latents):
        return self.layer(latents).sigmoid().unflatten(1, self.shape)


def which_half(images):
    """Logits of: the left half is bright, the right half is, neither is."""
    left, right = ((half - 0.5).mean((1, 2, 3)) for half in images.chunk(2, 3))
    return 40 * torch.stack([left, right, -(left + right)], 1)


@pytest.mark.parametrize(("distance", "label"), [("mmd", 0), ("mmd", 1), ("ct", 0)])
def test_what_the_second_round_is_for(distance, label):
    """Tuned to the surest images of a class, the generator makes more of it of fresh latents.

    The second search draws its starts from these.  Tuned to the least sure ones, it makes less.
    """
    space = Patches()
    tuning = Tuning(
        distance=distance, pivot_steps=40, tune_steps=40, tune_lr=0.02, space_samples=200
    )
    draws = torch.Generator().manual_seed(50)
    seen, fresh = (torch.randn(count, 4, generator=draws) for count in (2000, 500))

    def features(images):
        return images.flatten(1)

    @torch.no_grad()
    def probability(generator):
        return float(which_half(generator.synthesis(fresh)).softmax(1)[:, label].mean())

    with torch.no_grad():
        images = space.synthesis(seen)
        sure = which_half(images).softmax(1)[:, label]
    times = {}
    for best in (True, False):
        wanted = features(images[sure.topk(10, largest=best).indices])
        pivots = find_pivots(tuning, space, wanted, features, 0, label)
        made = tuned(tuning, space, pivots, wanted, features, label)
        times[best] = probability(made) / probability(space)
    assert times[True] > 1.2
    assert times[False] < 0.95


def test_running_statistics_stay():
    space = DirectLatents(plain())
    made = tuned(SHORT, space, torch.randn(2, 100), torch.rand(2, 1024), lambda x: x.flatten(1), 0)
    for (name, old), (_, new) in zip(space.named_buffers(), made.named_buffers(), strict=True):
        assert torch.equal(old, new), name


def test_the_most_robust_of_the_first_search_are_what_it_is_tuned_to(monkeypatch):
    generator, target, given = plain(), linear(), {}

    def spy(label, config, work, space, latents, features, folder):
        given[label] = latents
        return space

    monkeypatch.setattr(inversion, "_tuned_for", spy)
    config = replace(SHORT, kept=5, selected=5, points=3)
    found = attacked(config, generator, target)
    assert list(given) == [2, 0]
    first = invert_ppa(
        config, target, generator, [2, 0], progress=False
    )  # the same search: nothing was tuned
    torch.testing.assert_close(found.images, first.images)
    attack = PpaAttack(config, target, DirectLatents(generator), 32, CPU)
    for column, label in enumerate((2, 0)):
        rows = inversion.Inversion(
            "x", "x", config, target, [label], (1, 32, 32), generator, restarts=5, how={}
        ).rows
        sure = attack.confidence(first.latents[:, column], rows)
        best = first.latents[:, column][sure.topk(3).indices]
        torch.testing.assert_close(given[label], best)


def test_without_tuning_it_is_ppa_and_with_it_another_generator(tmp_path):
    generator, target = plain(), linear()
    before = weights_digest(generator)
    found = attacked(SHORT, generator, target, run_dir=tmp_path)
    assert weights_digest(generator) == before
    for column, label in enumerate((2, 0)):
        state = torch.load(tmp_path / "second" / str(label) / "tuned.pt")["state_dict"]
        space = DirectLatents(plain())
        space.load_state_dict(state)
        remade = space.synthesis(found.latents[:, column]).detach()
        torch.testing.assert_close(remade.clamp(0, 1), found.images[:, column])
        plainly = generator(found.latents[:, column]).detach()
        assert not torch.allclose(plainly, remade, atol=1e-4)


def test_classes_do_not_touch():
    generator, target = plain().double(), linear().double()
    config = replace(SHORT, features="pixels")
    whole = attacked(config, generator, target, (0, 1, 2))
    some = attacked(replace(config, batch_size=3), generator, target, (2,))
    torch.testing.assert_close(whole.latents[:, 2:], some.latents, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("where", ["first search", "tuning", "second search"])
def test_killed_anywhere_it_ends_as_the_whole_one(where, tmp_path, monkeypatch):
    generator, target = plain(), linear()
    config = replace(SHORT, checkpoint_every=1)
    whole = attacked(config, generator, target, run_dir=tmp_path / "whole")
    module, name, count = {
        "first search": (inversion.PpaAttack, "confidence", 1),
        "tuning": (inversion, "tuned", 2),
        "second search": (inversion.PpaAttack, "confidence", 3),
    }[where]
    real, calls = getattr(module, name), []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == count:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, killed)
        with pytest.raises(KeyboardInterrupt):
            attacked(config, generator, target, run_dir=tmp_path / "killed")
    resumed = attacked(config, generator, target, run_dir=tmp_path / "killed")
    assert torch.equal(resumed.images, whole.images)
    assert torch.equal(resumed.latents, whole.latents)
    assert torch.equal(resumed.target_confidence, whole.target_confidence)
    with pytest.raises(ValueError, match=r"was made with tune_lr=0.0003, now tune_lr=0.01"):
        attacked(replace(config, tune_lr=0.01), generator, target, run_dir=tmp_path / "killed")


def test_any_generator_at_the_targets_size():
    torch.manual_seed(0)
    made = StyleGan2(16, {4: 4, 8: 4, 16: 4}, z_dim=6, w_dim=6, mapping_layers=1).eval()
    target = linear((3, 8, 8))
    found = attacked(replace(SHORT, centre=12), made, target, input_size=8)
    assert found.images.shape == (SHORT.selected, 2, 3, 8, 8)
    without_head = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten())
    config = replace(SHORT, centre=12)
    with pytest.raises(ValueError, match="give features=pixels"):
        attacked(replace(config, features="target"), made, without_head, input_size=8)
    attacked(replace(config, features="pixels"), made, without_head, input_size=8)


def test_a_tuning_that_breaks_names_the_identity():
    config = replace(SHORT, tune_lr=1e30, features="pixels")
    with pytest.raises(
        FloatingPointError, match=r"PPDG-MI: identity 2: a feature of the generator"
    ):
        attacked(config, plain(), linear())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": "w2"}, "distance must be one of 'mmd' or 'ct', got 'w2'"),
        ({"features": "vgg"}, "features must be one of"),
        ({"points": 5}, r"points must be at most kept \(4\), got 5"),
        ({"points": 1}, "points must be at least 2"),
        ({"tune_lr": 0.0}, "tune_lr must be positive"),
        ({"kept": 99}, "kept must be at most candidates"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SHORT, **change)


def test_it_breaks_a_small_target():
    """Each of three classes, for which a random image has a third."""
    config = replace(SHORT, steps=20, lr=0.2, loss="cross-entropy")
    found = attacked(config, plain(), linear(), (0, 1, 2))
    assert (found.target_confidence.mean(0) > 0.6).all()

# SPDX-License-Identifier: Apache-2.0
"""IF-GMI: balls, generators entered in between, stages that stay near where they begin, resumed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bido_ext.lab.attacks import DirectLatents, Generator
from bido_ext.lab.attacks.if_gmi import IF_GMI, IfGmiConfig, into_ball, inversion, invert_if_gmi
from bido_ext.lab.attacks.ppa.loss import poincare_loss
from bido_ext.lab.attacks.stylegan2 import StyleGan2

SHORT = IfGmiConfig(
    candidates=12, restarts=2, steps=7, feature_steps=2, layers=2, radii="0,3", lr=0.05,
    feature_lr=0.05, batch_size=5, checkpoint_every=2,
)  # fmt: skip
SIDES = {4: 6, 8: 5, 16: 4}


def plain(width=0.1):
    """An untrained generator hardly reacts to its input: this one does."""
    torch.manual_seed(0)
    made = Generator(width).eval()
    with torch.no_grad():
        for weights in made.parameters():
            weights.mul_(3)
    return made


def stylegan():
    torch.manual_seed(0)
    return StyleGan2(16, SIDES, z_dim=6, w_dim=7, mapping_layers=2, truncation=0.7).eval()


def linear(shape=(1, 32, 32), classes=3):
    torch.manual_seed(1)
    count = shape[0] * shape[1] * shape[2]
    made = nn.Sequential(nn.Flatten(), nn.Linear(count, classes))
    with torch.no_grad():
        made[1].weight.mul_(20 / count**0.5)
    return made


def attacked(config, generator, target, classes=(2, 0), **how):
    return invert_if_gmi(config, target, generator, classes, progress=False, **how)


@pytest.mark.parametrize("ball", ["l1", "l2"])
def test_the_nearest_point_of_the_ball(ball):
    torch.manual_seed(0)
    centre, x = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    x[0] = centre[0] + 0.01
    found = into_ball(x, centre, 1.5, ball)
    sizes = torch.linalg.vector_norm((found - centre).flatten(1), int(ball[1]), dim=1)
    assert torch.equal(found[0], x[0])
    torch.testing.assert_close(sizes[1:], torch.full((3,), 1.5, dtype=torch.float64))
    # No point of the ball is nearer: <x - found, point - found> <= 0 for all of them.
    points = torch.randn(4, 500, 6, dtype=torch.float64)
    points *= 1.5 / torch.linalg.vector_norm(points, int(ball[1]), dim=2, keepdim=True)
    away, there = (x - found).flatten(1), points + (centre - found).flatten(1)[:, None]
    assert (torch.einsum("nd,npd->np", away, there) < 1e-12).all()
    assert into_ball(x, centre, 0.0, ball) is x


@pytest.mark.parametrize("make", [lambda: DirectLatents(plain()), stylegan])
def test_the_layers_are_the_generator(make):
    space = make()
    # Of LayeredGenerator; isinstance of a protocol does not see what a module holds (Python 3.12).
    members = ("z_dim", "shape", "mapping", "synthesis", "layers", "through", "image")
    assert all(hasattr(space, name) for name in members)
    latents = space.mapping(torch.randn(3, space.z_dim)).detach()
    whole = space.synthesis(latents)
    for cut in range(1, space.layers):
        state = space.through(0, cut, latents, [])
        state = space.through(cut, space.layers, latents, state)
        assert torch.equal(space.image(state), whole)
    assert space.layers == 4 if isinstance(space, DirectLatents) else len(SIDES)


class Watched(inversion._IfGmi):
    """Writes down where each stage begins and what it ends at."""

    log: list

    def _enter(self, stage):
        super()._enter(stage)
        if stage:
            with torch.no_grad():
                self.log.append((stage, "begins", self._images()))

    def advance(self, step):
        before = [leaf.detach().clone() for leaf in self.leaves]
        found = super().advance(step)
        with torch.no_grad():
            self.log.append((self.stage, before, self._images()))
        moved = zip(self.leaves, self.centres, strict=True)
        self.log.append(
            (self.stage, "moved", [(a - b).flatten(1).abs().sum(1).max().item() for a, b in moved])
        )
        return found


@pytest.mark.parametrize("make", [plain, stylegan])
def test_each_stage_goes_on_from_the_one_before_within_its_ball(make, monkeypatch):
    generator, log = make().double(), []
    monkeypatch.setattr(Watched, "log", log, raising=False)
    monkeypatch.setattr(inversion, "_IfGmi", Watched)
    target = linear(generator.shape).double()
    found = attacked(SHORT, generator, target)
    stages = [stage for stage, what, _ in log if what == "moved"]
    assert stages == [0, 0, 0, 1, 1, 2, 2], "7 steps, 2 for each of 2 layers"
    for place, (_, what, images) in enumerate(log):
        if what == "begins":  # behind the end of the stage before
            torch.testing.assert_close(images, log[place - 2][2])
    for stage, what, moved in log:
        if what == "moved" and stage:
            assert max(moved) <= 3 * (1 + 1e-9)
            assert moved[1] > 0, "the features move"
            assert (moved[0] > 0) == (make is stylegan), "noise has no part behind layer 0"
    torch.testing.assert_close(found.images.flatten(0, 1), log[-2][2].clamp(0, 1))


def test_features_reach_what_latents_do_not():
    """With the radius at 0.001 the images are those of the latents alone; with none they are better."""
    generator, target = plain(), linear()
    config = replace(SHORT, steps=40, feature_steps=15, lr=0.1, feature_lr=0.1)
    losses = []
    for radii in ("0,0.001", "0,0"):
        found = attacked(replace(config, radii=radii), generator, target)
        images = found.images.flatten(0, 1)
        losses.append(poincare_loss(target(images), torch.tensor([2, 0, 2, 0])).mean().item())
    assert losses[1] < losses[0] - 0.05


@pytest.mark.parametrize("stop", [3, 5, 7, 12])
def test_killed_in_any_stage_it_ends_as_the_whole_one(stop, tmp_path, monkeypatch):
    generator, target = stylegan(), linear((3, 16, 16))
    config = replace(SHORT, checkpoint_every=1, batch_size=2)
    whole = attacked(config, generator, target)
    advance, calls = inversion._IfGmi.advance, []

    def killed(self, step):
        calls.append(step)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return advance(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(inversion._IfGmi, "advance", killed)
        with pytest.raises(KeyboardInterrupt):
            attacked(config, generator, target, run_dir=tmp_path)
    resumed = attacked(config, generator, target, run_dir=tmp_path)
    assert torch.equal(resumed.images, whole.images)
    assert torch.equal(resumed.latents, whole.latents)


def test_rows_do_not_touch():
    generator, target = stylegan().double(), linear((3, 16, 16)).double()
    whole = attacked(SHORT, generator, target, (0, 1, 2))
    some = attacked(replace(SHORT, batch_size=1), generator, target, (2, 0))
    torch.testing.assert_close(whole.images[:, [2, 0]], some.images, rtol=1e-6, atol=1e-8)


def test_images_at_the_targets_size():
    found = attacked(replace(SHORT, centre=12), stylegan(), linear((3, 8, 8)), input_size=8)
    assert found.images.shape == (2, 2, 3, 8, 8)
    assert found.latents.shape == (2, 2, 7)


def test_no_more_layers_than_there_are():
    found = attacked(replace(SHORT, layers=99), plain(), linear())
    assert found.images.shape == (2, 2, 1, 32, 32)
    with pytest.raises(
        ValueError, match=r"steps must be more than feature_steps of 3 layers \(6\)"
    ):
        attacked(replace(SHORT, layers=99, steps=6), plain(), linear())


def test_generators_that_cannot_be_entered_are_refused():
    whole = DirectLatents(nn.Linear(4, 1024), 4, (1, 32, 32))
    with pytest.raises(ValueError, match="at least two layers"):
        attacked(SHORT, whole, linear())

    class Bare(nn.Module):
        z_dim, shape = 4, (1, 32, 32)

        def mapping(self, z):
            return z

        def synthesis(self, latents):
            return latents

    with pytest.raises(TypeError, match="Bare has no layers, through, image"):
        attacked(SHORT, Bare(), linear())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ball": "linf"}, "ball must be one of 'l1' or 'l2', got 'linf'"),
        (
            {"loss": "l2"},
            "loss must be one of 'poincare', 'cross-entropy' or 'max-margin', got 'l2'",
        ),
        ({"radii": "1,x"}, "radii must be numbers of at least 0 by commas, got '1,x'"),
        ({"radii": "1,-2"}, "radii must be numbers of at least 0"),
        ({"radii": "nan"}, "radii must be numbers of at least 0"),
        ({"feature_steps": 0}, "feature_steps must be at least 1"),
        ({"restarts": 13}, r"restarts must be at most candidates \(12\), got 13"),
        ({"beta1": 1.0}, "beta1 must be below 1"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SHORT, **change)


def test_published_settings():
    config = IF_GMI.settings("published")
    assert config.steps - 7 * config.feature_steps == 50
    assert [config.radius(stage) for stage in (0, 6, 7, 12)] == [1000, 8000, 8000, 8000]


def test_it_breaks_a_small_target():
    """Each of three classes, for which a random image has a third."""
    config = replace(
        SHORT, steps=80, feature_steps=20, lr=0.2, feature_lr=0.1, loss="cross-entropy",
        radii="0,100",
    )  # fmt: skip
    found = attacked(config, plain(), linear(), (0, 1, 2))
    assert (found.target_confidence.mean(0) > 0.6).all()

# SPDX-License-Identifier: Apache-2.0
"""PPA: the Poincare loss, crops, both selections, rows on their own, exact continuation."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bido_ext.lab.attacks import Generator
from bido_ext.lab.attacks.ppa import PpaConfig, inversion, invert_ppa, poincare_loss, selection
from bido_ext.lab.attacks.ppa.loss import LOSSES
from bido_ext.lab.attacks.ppa.transforms import CropRange, fit, resized_crop
from bido_ext.lab.attacks.rows import Rows
from bido_ext.lab.attacks.stylegan2 import StyleGan2
from bido_ext.lab.models import build_model

SHORT = PpaConfig(
    candidates=12, kept=4, selected=2, steps=4, transforms=3, batch_size=8, checkpoint_every=2
)


@pytest.fixture
def target():
    return build_model("mcnn", 5).eval()


@pytest.fixture
def generator():
    return Generator(0.05).eval()


def _invert(config, target, generator, classes=range(5), **options):
    return invert_ppa(config, target, generator, classes, progress=False, **options)


def test_poincare_loss_by_hand():
    logits, label = torch.tensor([[3.0, -1.0]], dtype=torch.float64), torch.tensor([0])
    u2, v2 = 0.75**2 + 0.25**2, 0.9999**2
    d2 = (0.75 - 0.9999) ** 2 + 0.25**2
    expected = torch.acosh(torch.tensor(1 + 2 * d2 / ((1 - u2) * (1 - v2)), dtype=torch.float64))
    torch.testing.assert_close(poincare_loss(logits, label)[0], expected)


def test_poincare_loss_has_a_gradient_everywhere():
    logits = torch.tensor([[5.0, 0, 0], [0, 5.0, 0], [1e4, -1e-4, 1e-4]], requires_grad=True)
    poincare_loss(logits, torch.zeros(3, dtype=torch.long)).sum().backward()
    assert logits.grad.isfinite().all()
    right, wrong = poincare_loss(logits, torch.zeros(3, dtype=torch.long))[:2]
    assert right < wrong


def test_the_losses_are_those_of_their_names():
    logits, labels = torch.tensor([[3.0, 1.0], [0.5, 2.0]]), torch.tensor([0, 0])
    found = {name: loss(logits, labels) for name, loss in LOSSES.items()}
    torch.testing.assert_close(found["poincare"], poincare_loss(logits, labels))
    torch.testing.assert_close(found["max-margin"], torch.tensor([-2.0, 1.5]))
    torch.testing.assert_close(found["cross-entropy"], -logits.log_softmax(1)[:, 0])


def test_bfloat16_logits_do_not_tie():
    logits = torch.tensor([[40.0, -2.0], [40.0, 1.0]], dtype=torch.bfloat16)
    found = poincare_loss(logits, torch.tensor([0, 0]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, poincare_loss(logits.float(), torch.tensor([0, 0])))
    images, rows = torch.rand(2, 3, 8, 8).bfloat16(), Rows.of([0], 2, 2, 0)
    for score in (
        selection.candidate_scores(images, lambda _: logits)[:, 0],
        selection.robust_confidence(images, rows, lambda _: logits.mul(0.1), 2),
    ):
        assert score.dtype == torch.float32
    assert score[0] > score[1]


def test_crops_are_crops():
    images = torch.rand(2, 3, 8, 8)
    whole = torch.tensor([[0.5, 0.5, 0.3, 0.7, 0.9]] * 2)
    same = resized_crop(images, CropRange((1.0, 1.0)), whole)
    torch.testing.assert_close(same, images)
    mirrored = resized_crop(images, CropRange((1.0, 1.0), flip=0.95), whole)
    torch.testing.assert_close(mirrored, images.flip(3))
    # A quarter of the area at the left top, and at the right bottom, doubled in size.
    corners = torch.tensor([[0.5, 0.5, 0.0, 0.0, 0.9], [0.5, 0.5, 1.0, 1.0, 0.9]])
    found = resized_crop(images, CropRange((0.25, 0.25)), corners)
    for image, crop, first in ((images[0], found[0], 0), (images[1], found[1], 4)):
        part = image[None, :, first : first + 4, first : first + 4]
        wanted = nn.functional.interpolate(part, size=(8, 8), mode="bilinear")
        torch.testing.assert_close(crop[:, 2:-2, 2:-2], wanted[0, :, 2:-2, 2:-2])


def test_fit_crops_the_middle_and_resizes():
    images = torch.rand(1, 1, 10, 10)
    assert torch.equal(fit(images, 4, 4), images[:, :, 3:7, 3:7])
    assert fit(images, 0, 5).shape == (1, 1, 5, 5)
    assert torch.equal(fit(images, 0, 10), images)


def test_candidates_are_the_targets_favourites_in_the_order_drawn():
    scores = torch.tensor([[0.1, 0.9], [0.6, 0.2], [0.5, 0.4], [0.7, 0.3]])
    assert selection.best_candidates(scores, [1, 0], 2).tolist() == [[0, 1], [2, 3]]
    images = torch.rand(3, 1, 4, 4)
    target = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    found = selection.candidate_scores(images, target)
    torch.testing.assert_close(found, selection.candidate_scores(images.flip(3), target))


def test_last_selection_keeps_the_most_confident_in_their_order():
    table = torch.tensor([[0.1, 0.9], [0.8, 0.5], [0.9, 0.7]])  # [restarts, classes]
    rows = selection.best_rows(table.flatten(), 2, 2)
    assert rows.tolist() == [2, 1, 4, 5]  # class 0: restarts 1, 2; class 1: restarts 0, 2


def test_robust_confidence_is_the_mean_over_crops(target):
    rows = Rows.of([3, 0], 2, 5, 0)
    images = torch.rand(4, 1, 32, 32)
    found = selection.robust_confidence(images, rows, target, 3)
    expected = torch.zeros(4)
    for i in range(3):
        draws = rows.uniform("ppa selection", i, 5)
        for row, label in enumerate([3, 0, 3, 0]):
            seen = resized_crop(images[row, None], selection.SELECTION, draws[row, None])
            expected[row] += target(seen).softmax(1)[0, label].detach() / 3
    torch.testing.assert_close(found, expected)


def test_latents_start_at_the_selected_candidates(target, generator):
    found = _invert(replace(SHORT, kept=2, steps=1, lr=1e-9), target, generator, [3])
    z = torch.randn(
        12, 100,
        generator=torch.Generator().manual_seed(inversion.stream_seed(0, "ppa candidates")),
    )  # fmt: skip
    with torch.no_grad():
        images = generator(z)
        both = target(images).softmax(1) + target(images.flip(3)).softmax(1)
    best = both[:, 3].topk(2).indices
    torch.testing.assert_close(found.latents[:, 0], z[best])


def test_shapes_and_confidence(target, generator):
    found = _invert(SHORT, target, generator, [3, 1])
    assert found.images.shape == (2, 2, 1, 32, 32)
    with torch.no_grad():
        confidence = target(found.images.flatten(0, 1)).softmax(1).view(2, 2, 5)[:, [0, 1], [3, 1]]
    torch.testing.assert_close(found.target_confidence, confidence)


def test_update_is_adam_on_the_poincare_loss(target, generator):
    config = replace(SHORT, kept=2, selected=2, steps=2)
    z = _invert(replace(config, steps=1, lr=1e-12), target, generator, [3]).latents[:, 0]
    z = z.clone().requires_grad_()
    adam = torch.optim.Adam([z], 5e-3, (0.1, 0.1))
    rows = Rows.of([3], 2, 5, 0)
    for step in (1, 2):
        seen = resized_crop(generator(z), CropRange((0.9, 1.0)), rows.uniform("ppa", step, 5))
        adam.zero_grad()
        poincare_loss(target(seen), torch.tensor([3, 3])).sum().backward()
        adam.step()
    found = _invert(config, target, generator, [3]).latents[:, 0]
    torch.testing.assert_close(found, z.detach(), rtol=1e-4, atol=1e-4)


def test_result_does_not_depend_on_what_else_is_attacked(target, generator):
    config = replace(SHORT, selected=4)
    target, generator = target.double(), generator.double()
    whole = _invert(config, target, generator)
    cut = _invert(replace(config, batch_size=3), target, generator)
    some = _invert(config, target, generator, [4, 2])
    torch.testing.assert_close(whole.latents, cut.latents, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(whole.latents[:, [4, 2]], some.latents, rtol=1e-6, atol=1e-8)


def test_interrupted_attack_ends_as_the_whole_one(target, generator, tmp_path, monkeypatch):
    whole = _invert(SHORT, target, generator, run_dir=tmp_path / "whole")
    advance, calls = inversion._Ppa.advance, []

    def killed_in_the_second_batch(self, step):
        calls.append(step)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return advance(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(inversion._Ppa, "advance", killed_in_the_second_batch)
        with pytest.raises(KeyboardInterrupt):
            _invert(SHORT, target, generator, run_dir=tmp_path / "killed")
    torch.rand(3)
    resumed = _invert(SHORT, target, generator, run_dir=tmp_path / "killed")
    assert torch.equal(whole.latents, resumed.latents)
    assert torch.equal(whole.images, resumed.images)


def test_any_generator_serves(target):
    stylegan = StyleGan2(16, {4: 4, 8: 4, 16: 4}, z_dim=6, w_dim=6, mapping_layers=1)
    colour = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    found = _invert(replace(SHORT, centre=12), colour, stylegan.eval(), [1], input_size=8)
    assert found.images.shape == (2, 1, 3, 8, 8)
    assert found.latents.shape == (2, 1, 6)
    with pytest.raises(TypeError, match="Linear has no z_dim, shape, mapping, synthesis"):
        _invert(SHORT, target, nn.Linear(2, 2))
    with pytest.raises(ValueError, match="centre must be at most the side .* got 40"):
        _invert(replace(SHORT, centre=40), target, Generator(0.05))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": 3000}, r"kept must be at most candidates \(2000\), got 3000"),
        ({"selected": 201}, r"selected must be at most kept \(200\), got 201"),
        ({"beta1": 1.0}, "beta1 must be below 1, got 1.0"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"transforms": 0}, "transforms must be at least 1, got 0"),
    ],
)
def test_bad_configuration(change, message):
    with pytest.raises(ValueError, match=message):
        PpaConfig(**change)

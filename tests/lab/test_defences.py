# SPDX-License-Identifier: Apache-2.0
"""The defences: what they add to the loss, and what they refuse."""

import pytest
import torch

from bido_ext import BiDOLoss, FeatureTaps
from bido_ext.lab.defences import DEFENCES, Defence, resolve_weights
from bido_ext.lab.models import MCNN, build_model

TAPS = MCNN.layers


@pytest.fixture
def batch():
    return torch.rand(10, 1, 32, 32), torch.arange(10) % 5


def _penalty(defence, batch, model=None):
    x, y = batch
    model = model or build_model("mcnn", 5, defence.name)
    with defence.attached(model) as penalty:
        logits = model(x)
        return (*penalty(x, logits, y), model, logits)


def test_every_defence_gives_a_finite_gradient(batch):
    for name in DEFENCES:
        loss, parts, model, logits = _penalty(Defence(name, taps=TAPS), batch)
        total = logits.sum() if loss is None else logits.sum() + loss
        total.backward()
        for parameter in model.parameters():
            assert parameter.grad is None or torch.isfinite(parameter.grad).all()
        assert all(not part.requires_grad for part in parts.values())
        assert (loss is None) == (name == "none")


@pytest.mark.parametrize(("name", "measure"), [("bido-hsic", "nhsic"), ("bido-coco", "coco")])
def test_bido_is_the_packages_loss(batch, name, measure):
    x, y = batch
    model = build_model("mcnn", 5).eval()
    weights = {"lambda_x": 0.3, "lambda_y": 2.0}
    loss, parts, _, _ = _penalty(Defence(name, weights, TAPS), batch, model)
    taps = FeatureTaps(model, list(TAPS))
    model(x)
    expected = BiDOLoss(measure=measure, sigma=5.0, **weights)(x, taps.features, y)
    torch.testing.assert_close(loss, expected)
    assert list(parts)[:2] == ["d(x,layer1)", "d(layer1,y)"]
    total = sum(0.3 * parts[f"d(x,{t})"] - 2.0 * parts[f"d({t},y)"] for t in TAPS)
    torch.testing.assert_close(total.float(), loss.detach(), rtol=1e-4, atol=1e-6)


def test_unilateral_is_the_published_coco_of_input_and_logits(batch):
    loss, parts, _, logits = _penalty(Defence("unilateral", {"lambda_x": 3.0}), batch)
    x, z = batch[0].flatten(1).double(), logits.double()
    n, d = x.shape
    centred = torch.eye(n, dtype=torch.float64) - 1.0 / n
    gaussian = torch.exp(-torch.cdist(x, x).square() / (2 * 5.0**2 * d))
    product = centred @ gaussian @ centred @ centred @ (z @ z.T) @ centred
    expected = 3.0 * product.norm().sqrt() / n  # torch's norm of a matrix is Frobenius's
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-7)
    assert list(parts) == ["coco(x,logits)"]


def test_mid_is_beta_times_kl(batch):
    loss, parts, model, _ = _penalty(Defence("mid", {"beta": 0.2}), batch)
    torch.testing.assert_close(loss, 0.2 * model.kl)
    assert list(parts) == ["kl"]


def test_zero_weights_add_nothing(batch):
    defence = Defence("bido-hsic", {"lambda_x": 0.0, "lambda_y": 0.0}, TAPS)
    assert _penalty(defence, batch)[0] is None


def test_hooks_are_gone_afterwards(batch):
    _, _, model, _ = _penalty(Defence("bido-coco", taps=TAPS), batch)
    assert not any(module._forward_hooks for module in model.modules())


def test_weights_have_defaults():
    assert resolve_weights("bido-hsic", {"lambda_y": 1}) == {"lambda_x": 0.05, "lambda_y": 1.0}
    assert resolve_weights("none", {}) == {}


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("dropout", {}, "unknown defence 'dropout'; known: none, mid"),
        ("mid", {"lambda_x": 1.0}, "'mid' has no weight 'lambda_x'; its weights: beta"),
        ("none", {"beta": 1.0}, "'none' has no weight 'beta'; its weights: none"),
        ("mid", {"beta": -1.0}, "beta must be a finite number of at least 0, got -1.0"),
        ("mid", {"beta": float("nan")}, "beta must be a finite number of at least 0, got nan"),
        ("bido-hsic", {}, "taps must name at least one layer for the defence 'bido-hsic'"),
    ],
)
def test_bad_arguments(name, weights, message):
    with pytest.raises(ValueError, match=message):
        Defence(name, weights)


def test_mid_needs_its_bottleneck():
    defence = Defence("mid")
    with pytest.raises(ValueError, match="needs a model with a bottleneck"):
        defence.attached(build_model("mcnn", 5)).__enter__()

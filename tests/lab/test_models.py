# SPDX-License-Identifier: Apache-2.0
"""The classifiers: shapes, watched layers, and MID's bottleneck."""

import pytest
import torch
from torch import nn

from bido_ext.lab.models import MODELS, build_model


@pytest.mark.parametrize("defence", [None, "mid"])
@pytest.mark.parametrize("name", list(MODELS))
def test_logits_and_features(name, defence):
    model = build_model(name, 5, defence).eval()
    x = torch.rand(3, *MODELS[name].input_shape)
    features = model.features(x)
    assert features.shape == (3, model.feature_dim)
    assert model(x).shape == (3, 5)
    torch.testing.assert_close(model.head(features), model(x))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("mcnn", [64 * 14 * 14, 128 * 5 * 5, 256]),
        ("scnn", [32 * 14 * 14, 64 * 5 * 5, 128, 256, 512]),
        ("lenet3", [32 * 14 * 14, 64 * 7 * 7, 1024]),
    ],
)
def test_watched_layers_have_the_published_sizes(name, sizes):
    spec, model, seen = MODELS[name], build_model(name, 5), []
    for tap in spec.taps:
        model.get_submodule(tap).register_forward_hook(
            lambda module, inputs, output: seen.append(output[0].numel())
        )
    with torch.no_grad():
        model(torch.rand(2, *spec.input_shape))
    assert seen == sizes


def test_mid_is_deterministic_in_eval_mode_only():
    model, x = build_model("mcnn", 5, "mid"), torch.rand(4, 1, 32, 32)
    with torch.no_grad():
        assert not torch.equal(model(x), model(x))
        model.eval()
        assert torch.equal(model(x), model(x))


def test_mid_kl_is_that_of_the_gaussians():
    model, x = build_model("mcnn", 5, "mid"), torch.rand(4, 1, 32, 32)
    codes = []
    model.encoder.register_forward_hook(lambda module, inputs, output: codes.append(output))
    model(x)
    mu, raw = codes[0].chunk(2, dim=1)
    z = torch.distributions.Normal(mu, nn.functional.softplus(raw - 5.0))
    standard = torch.distributions.Normal(torch.zeros_like(mu), 1.0)
    expected = torch.distributions.kl_divergence(z, standard).sum(1).mean()
    torch.testing.assert_close(model.kl, expected)


def test_mid_kl_stays_finite_when_the_deviation_underflows():
    model = build_model("mcnn", 5, "mid")
    nn.init.constant_(model.encoder.bias, -1e4)
    model(torch.rand(4, 1, 32, 32)).sum().backward()
    assert torch.isfinite(model.kl)
    assert torch.isfinite(model.encoder.weight.grad).all()


def test_bad_arguments():
    with pytest.raises(ValueError, match="unknown model 'vgg'; known: lenet3, mcnn, scnn"):
        build_model("vgg", 5)
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        build_model("mcnn", 1)

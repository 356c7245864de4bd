# SPDX-License-Identifier: Apache-2.0
"""The classifiers: shapes, watched layers, options, and MID's bottleneck."""

import pytest
import torch
from torch import nn

from bido_ext.lab.models import MODELS, build_model, find_model

# Narrow versions: the shapes of the code path, not the time of the real networks.
NARROW = {
    "vgg16": {"width": 0.125},
    "resnet-clsh": {"depth": 10, "image_size": 32},
    "facenet64": {"width": 0.125, "image_size": 32},
    "ir152": {"width": 0.0625, "image_size": 16},
    "facenet112": {"width": 0.125, "image_size": 32},
    "torchvision/resnet18": {"image_size": 32},
}


def _images(name, count=3, options=None):
    return torch.rand(count, *find_model(name).shape(options))


@pytest.mark.parametrize("defence", [None, "mid"])
@pytest.mark.parametrize("name", [*MODELS, "torchvision/resnet18"])
def test_logits_and_features(name, defence):
    options = NARROW.get(name, {})
    model = build_model(name, 5, defence, options).eval()
    x = _images(name, options=options)
    assert model.input_shape == x.shape[1:]
    features = model.features(x)
    assert features.shape == (3, model.feature_dim)
    assert model(x).shape == (3, 5)
    torch.testing.assert_close(model.head(features), model(x))
    assert all(tap in dict(model.named_modules()) for tap in model.taps)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("mcnn", [64 * 14 * 14, 128 * 5 * 5, 256]),
        ("scnn", [32 * 14 * 14, 64 * 5 * 5, 128, 256, 512]),
        ("lenet3", [32 * 14 * 14, 64 * 7 * 7, 1024]),
        ("vgg16", [65536, 32768, 16384, 8192, 2048]),
        ("resnet-clsh", [16384, 16384, 8192, 4096, 2048, 50, 50]),
        ("facenet64", [64 * 32 * 32, 128 * 16 * 16, 256 * 8 * 8, 512 * 4 * 4, 512]),
    ],
)
def test_watched_layers_have_the_published_sizes(name, sizes):
    with torch.device("meta"):  # shapes alone, no arithmetic
        model = build_model(name, 5).eval()
        seen = []
        for tap in model.taps:
            model.get_submodule(tap).register_forward_hook(
                lambda module, inputs, output: seen.append(output[0].numel())
            )
        model(_images(name, 2))
    assert seen == sizes


def test_published_heads():
    with torch.device("meta"):
        vgg, mid = build_model("vgg16", 1000), build_model("vgg16", 1000, "mid")
        cifar = build_model("vgg16", 5, options={"image_size": 32})
        facenet = build_model("facenet112", 1000)
        ir152 = build_model("ir152", 1000)
    assert vgg.head.weight.shape == (1000, 2048)
    assert not vgg.norm.bias.requires_grad
    assert (mid.encoder.weight.shape, mid.head.weight.shape) == ((2048, 2048), (1000, 1024))
    assert isinstance(mid.body.norm, nn.Identity)
    assert cifar.head.weight.shape == (5, 512)
    assert facenet.output_layer[3].weight.shape == (512, 512 * 7 * 7)
    assert (len(facenet.body), len(ir152.body)) == (24, 50)
    assert build_model("mcnn", 5, "mid").feature_dim == 128


def test_the_network_sees_its_own_pixel_range():
    x = torch.rand(2, 3, 32, 32)
    options = {"width": 0.0625, "image_size": 32}
    model = build_model("vgg16", 5, options={**options, "pixel_range": "signed"}).eval()
    plain = build_model("vgg16", 5, options=options).eval()
    plain.load_state_dict(model.state_dict())  # the range is no weight
    torch.testing.assert_close(model.seen(x), 2 * x - 1)
    assert plain.seen(x) is x
    torch.testing.assert_close(model(x), plain(2 * x - 1))
    imagenet = build_model("vgg16", 5, "mid", {**options, "pixel_range": "imagenet"})
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(imagenet.seen(x), expected)


def test_only_evaluation_classifiers_resize():
    x = torch.rand(2, 3, 16, 16)
    options = {"width": 0.0625, "image_size": 32}
    judge = build_model("facenet112", 5, options=options).eval()
    assert judge.seen(x).shape == (2, 3, 32, 32)
    assert judge(x).shape == (2, 5)
    target = build_model("facenet64", 5, options=options).eval()
    assert target.seen(x) is x


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


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vgg", {}, r"arch must be one of mcnn, .*torchvision/NAME, timm/NAME, got 'vgg'"),
        ("torchvision/resnet17", {}, "no classifier 'resnet17'; did you mean resnet"),
        ("mcnn", {"width": 2}, "'mcnn' has no option 'width'; its options: pixel_range, resize"),
        ("vgg16", {"width": "wide"}, "width must be of type float, got nan"),
        ("vgg16", {"width": 0}, "width must be positive, got 0.0"),
        ("vgg16", {"image_size": 48}, "image_size of vgg16 must be a multiple of 32"),
        ("vgg16", {"pixel_range": "byte"}, "pixel_range must be one of unit, signed, imagenet"),
        ("mcnn", {"pixel_range": "imagenet"}, "is for 3 channels, the model has 1"),
        ("resnet-clsh", {"depth": 18}, "depth must be one of 10, 34, 50, got 18"),
    ],
)
def test_bad_names_and_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, 5, options=options)


def test_bad_number_of_classes():
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        build_model("mcnn", 1)

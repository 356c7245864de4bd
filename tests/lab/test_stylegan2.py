# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2: layers against explicit forms, weights of elsewhere loaded safely."""

import pickle

import pytest
import torch
import torch.nn.functional as F

from bido_ext.lab.attacks.stylegan2 import StyleGan2, load_stylegan2
from bido_ext.lab.attacks.stylegan2.layers import fir, modulated_conv, upsample

CHANNELS = {4: 6, 8: 5, 16: 4}


@pytest.fixture
def generator():
    made = StyleGan2(16, CHANNELS, z_dim=7, w_dim=8, mapping_layers=2).eval()
    with torch.no_grad():
        made.mapping.w_avg.normal_()
        for layer in made.synthesis.modules():
            if hasattr(layer, "noise_strength"):
                layer.noise_strength.fill_(0.3)
    return made


def stuffed(x, left, right):
    """Zeros between the pixels and around them."""
    wide = torch.zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3], dtype=x.dtype)
    wide[:, :, ::2, ::2] = x
    return F.pad(wide, (left, right, left, right))


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("up", [True, False])
def test_modulated_conv_is_a_convolution_with_weights_per_image(up, demodulate):
    x, weight = torch.randn(3, 4, 6, 6).double(), torch.randn(5, 4, 3, 3).double()
    style = torch.randn(3, 4).double()
    expected = []
    for image, scale in zip(x, style, strict=True):
        w = weight * scale[None, :, None, None]
        if demodulate:
            w = w / (w.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            # Convolution (flipped weights) of the stuffed image, then the filter: 3 + 4 - 1 taps,
            # centred as 3 before and 2 after.
            wide = F.conv2d(stuffed(image[None], 3, 2), w.flip(2, 3))
            expected.append(F.conv2d(wide, (4 * fir(x)).expand(5, 1, 4, 4), groups=5))
        else:
            expected.append(F.conv2d(image[None], w, padding=1))
    found = modulated_conv(x, weight, style, demodulate=demodulate, up=up)
    torch.testing.assert_close(found, torch.cat(expected))


def test_upsampling_is_the_filter_on_the_stuffed_image():
    x = torch.randn(2, 3, 5, 5).double()
    expected = F.conv2d(stuffed(x, 2, 1), (4 * fir(x)).expand(3, 1, 4, 4), groups=3)
    torch.testing.assert_close(upsample(x), expected)
    flat = upsample(torch.ones(1, 1, 6, 6).double())
    torch.testing.assert_close(flat[..., 2:-2, 2:-2], torch.ones(1, 1, 8, 8).double())


def test_mapping_truncates_towards_the_mean(generator):
    z = torch.randn(3, 7)
    full = generator.mapping(z)
    generator.mapping.truncation = 0.5
    torch.testing.assert_close(generator.mapping(z), (full + generator.mapping.w_avg) / 2)
    torch.testing.assert_close(generator.mapping(5 * z), generator.mapping(z), rtol=1e-4, atol=1e-4)
    generator.mapping.truncation = 0.0
    assert torch.equal(generator.mapping(z), generator.mapping.w_avg.expand(3, -1))


def test_a_w_for_each_layer(generator):
    w = torch.randn(2, 8)
    image = generator.synthesis(w)
    assert image.shape == (2, 3, 16, 16)
    assert generator.num_ws == 6
    torch.testing.assert_close(generator.synthesis(w[:, None].expand(-1, 6, -1)), image)
    for layer in range(6):
        ws = w[:, None].repeat(1, 6, 1)
        ws[:, layer] += 1
        assert not torch.allclose(generator.synthesis(ws), image)
    with pytest.raises(ValueError, match=r"latents must be \(n, 8\) or \(n, 6, 8\)"):
        generator.synthesis(torch.randn(2, 5, 8))


def test_images_depend_on_noise_only_through_fixed_buffers(generator):
    w = torch.randn(2, 8)
    assert torch.equal(generator.synthesis(w), generator.synthesis(w))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_come_back(generator, tmp_path, suffix):
    path = tmp_path / f"g{suffix}"
    state = {**generator.state_dict(), "synthesis.b8.conv0.resample_filter": fir(torch.zeros(()))}
    if suffix == ".pt":
        torch.save(state, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(state, path)
    z = torch.randn(2, 7)
    torch.testing.assert_close(load_stylegan2(path)(z), generator(z))
    half = load_stylegan2(path, truncation=0.5)
    assert half.mapping.truncation == 0.5
    assert not half.training


def test_names_are_those_of_the_release(generator):
    names = set(generator.state_dict())
    assert names >= {
        "mapping.fc0.weight",
        "mapping.fc1.bias",
        "mapping.w_avg",
        "synthesis.b4.const",
        "synthesis.b4.conv1.affine.weight",
        "synthesis.b4.torgb.bias",
        "synthesis.b8.conv0.noise_const",
        "synthesis.b16.conv1.noise_strength",
        "synthesis.b16.conv1.weight",
    }


def test_other_files_are_refused(generator, tmp_path):
    def saved(name, state):
        torch.save(state, tmp_path / name)
        return tmp_path / name

    (tmp_path / "g.pkl").write_bytes(pickle.dumps({}))
    state = generator.state_dict()
    cases = [
        (tmp_path / "g.pkl", "is a pickle, which would run code"),
        (tmp_path / "absent.pt", "there is no file"),
        (tmp_path / "absent.safetensors", "there is no file"),
        (saved("c.pt", {**state, "mapping.embed.weight": torch.zeros(1)}), "class-conditional"),
        (saved("o.pt", {"weight": torch.zeros(1)}), "does not hold the weights"),
        (saved("m.pt", {k: v for k, v in state.items() if "const" not in k}), "does not hold"),
        (saved("n.pt", {"a": 1}), r"holds no mapping of names to tensors, but a \(int\)"),
        (
            saved("f.pt", {**state, "synthesis.b8.resample_filter": torch.ones(4, 4)}),
            r"is not the filter \[1, 3, 3, 1\]",
        ),
    ]
    for path, message in cases:
        with pytest.raises(ValueError, match=message):
            load_stylegan2(path)


@pytest.mark.parametrize(
    ("resolution", "channels", "message"),
    [
        (12, CHANNELS, "resolution must be a power of two of at least 8, got 12"),
        (8, CHANNELS, r"channels must be given for \[4, 8\], got \[4, 8, 16\]"),
    ],
)
def test_bad_configuration(resolution, channels, message):
    with pytest.raises(ValueError, match=message):
        StyleGan2(resolution, channels)

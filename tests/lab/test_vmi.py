# SPDX-License-Identifier: Apache-2.0
"""VMI: an invertible flow, its log-determinant, the objective, exact continuation."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from bido_ext.lab.attacks import Generator
from bido_ext.lab.attacks.rows import Rows
from bido_ext.lab.attacks.stylegan2 import StyleGan2
from bido_ext.lab.attacks.vmi import CouplingFlow, VmiConfig, inversion, invert_vmi
from bido_ext.lab.attacks.vmi.flow import kl_to_standard_normal
from bido_ext.lab.models import build_model

SHORT = VmiConfig(
    steps=4, lr=1e-2, draws=3, samples=2, couplings=2, hidden=5, batch_size=3, checkpoint_every=2
)


@pytest.fixture
def target():
    return build_model("mcnn", 5).eval()


@pytest.fixture
def generator():
    return Generator(0.05).eval()


@pytest.fixture
def flow():
    made = CouplingFlow(5, couplings=3, hidden=7, seed=1).double()
    with torch.no_grad():
        for value in made.parameters():
            value.add_(torch.randn_like(value) * 0.3)
    return made


def _invert(config, target, generator, classes=range(5), **options):
    return invert_vmi(config, target, generator, classes, progress=False, **options)


def test_flow_is_invertible(flow):
    eps = torch.randn(4, 6, 5).double()
    z, log_det = flow(eps)
    assert log_det.shape == (4, 6)
    assert not torch.allclose(z, eps)
    torch.testing.assert_close(flow.inverse(z), eps)


def test_log_determinant_is_that_of_the_jacobian(flow):
    for eps in torch.randn(3, 5).double():
        jacobian = torch.autograd.functional.jacobian(lambda x: flow(x)[0], eps)
        torch.testing.assert_close(flow(eps)[1], torch.linalg.slogdet(jacobian)[1])


def test_untrained_flow_is_the_prior():
    eps = torch.randn(3, 6)
    z, log_det = CouplingFlow(6, couplings=2, hidden=4, seed=0)(eps)
    torch.testing.assert_close(z.sort(1).values, eps.sort(1).values)
    assert (log_det == 0).all()
    torch.testing.assert_close(kl_to_standard_normal(eps, z, log_det), torch.zeros(3))


def test_kl_is_the_difference_of_log_densities(flow):
    eps = torch.randn(4, 5).double()
    z, log_det = flow(eps)
    normal = Normal(torch.zeros(5).double(), 1.0)
    expected = normal.log_prob(eps).sum(1) - log_det - normal.log_prob(z).sum(1)
    torch.testing.assert_close(kl_to_standard_normal(eps, z, log_det), expected)


def test_kl_of_a_scaled_normal_in_closed_form():
    flow = CouplingFlow(2, couplings=1, hidden=1, seed=0)
    with torch.no_grad():
        flow.steps[0].log_scale.fill_(0.5)
        flow.steps[0].shift.fill_(1.0)
    eps = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0))
    found = kl_to_standard_normal(eps, *flow(eps)).mean()
    expected = 2 * (torch.e ** torch.tensor(1.0) + 1.0 - 1 - 1) / 2  # (s^2 + m^2 - 1 - log s^2) / 2
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=0)


def test_update_is_sgd_on_the_written_objective(target, generator):
    config = replace(SHORT, steps=2, kl_weight=0.5)
    seed = inversion.stream_seed(0, "vmi flow", 0)
    flow = CouplingFlow(100, couplings=2, hidden=5, seed=seed)
    sgd = torch.optim.SGD(flow.parameters(), 1e-2, 0.9)
    rows = Rows.of([3], 1, 5, 0)
    for step in (1, 2):
        eps = rows.noise("vmi", step, 1, 3, 100)[0, 0]
        z, log_det = flow(eps)
        ce = nn.functional.cross_entropy(target(generator(z)), torch.tensor([3, 3, 3]))
        sgd.zero_grad()
        (ce + 0.5 * kl_to_standard_normal(eps, z, log_det).mean()).backward()
        sgd.step()
    eps = rows.noise("vmi sample", 0, 1, 2, 100)[0, 0]
    found = _invert(config, target, generator, [3]).latents[:, 0]
    torch.testing.assert_close(found, flow(eps)[0].detach(), rtol=1e-4, atol=1e-5)


def test_shapes_restarts_and_confidence(target, generator):
    found = _invert(replace(SHORT, restarts=2), target, generator, [3, 1])
    assert found.images.shape == (4, 2, 1, 32, 32)
    assert found.latents.shape == (4, 2, 100)
    with torch.no_grad():
        images = generator(found.latents.flatten(0, 1))
        confidence = target(images).softmax(1).view(4, 2, 5)[:, [0, 1], [3, 1]]
    torch.testing.assert_close(found.target_confidence, confidence)


def test_result_does_not_depend_on_what_else_is_attacked(target, generator):
    config = replace(SHORT, restarts=2)
    target, generator = target.double(), generator.double()
    whole = _invert(config, target, generator)
    cut = _invert(replace(config, batch_size=4), target, generator)
    some = _invert(replace(config, restarts=1), target, generator, [4, 2])
    torch.testing.assert_close(whole.latents, cut.latents, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(whole.latents[:2, [4, 2]], some.latents, rtol=1e-6, atol=1e-8)


def test_interrupted_attack_ends_as_the_whole_one(target, generator, tmp_path, monkeypatch):
    whole = _invert(SHORT, target, generator, run_dir=tmp_path / "whole")
    advance, calls = inversion._Vmi.advance, []

    def killed_in_the_second_batch(self, step):
        calls.append(step)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return advance(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(inversion._Vmi, "advance", killed_in_the_second_batch)
        with pytest.raises(KeyboardInterrupt):
            _invert(SHORT, target, generator, run_dir=tmp_path / "killed")
    torch.rand(3)
    resumed = _invert(SHORT, target, generator, run_dir=tmp_path / "killed")
    assert torch.equal(whole.latents, resumed.latents)
    assert torch.equal(whole.images, resumed.images)


def test_a_flow_for_each_layer_of_stylegan(target, generator):
    stylegan = StyleGan2(8, {4: 4, 8: 4}, z_dim=6, w_dim=6, mapping_layers=1).eval()
    colour = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    layered = replace(SHORT, layered=True)
    assert _invert(SHORT, colour, stylegan, [1]).latents.shape == (2, 1, 6)
    found = _invert(layered, colour, stylegan, [1, 0])
    assert found.latents.shape == (2, 2, 4, 6)
    torch.testing.assert_close(
        found.images.flatten(0, 1),
        stylegan.synthesis(found.latents.flatten(0, 1)).clamp(0, 1).detach(),
    )
    with pytest.raises(ValueError, match="layered needs a generator with num_ws"):
        _invert(layered, target, generator)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"kl_weight": -1.0}, "kl_weight must be at least 0, got -1.0"),
        ({"momentum": 1.0}, "momentum must be below 1, got 1.0"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
    ],
)
def test_bad_configuration(change, message):
    with pytest.raises(ValueError, match=message):
        VmiConfig(**change)


def test_bad_flow():
    with pytest.raises(ValueError, match="dim must be at least 2, got 1"):
        CouplingFlow(1, couplings=1, hidden=1, seed=0)

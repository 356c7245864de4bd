# SPDX-License-Identifier: Apache-2.0
"""DP-SGD: clipped, noised and counted as Opacus does it; resumed to the same bits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bido_ext.lab.data.digits import split_digits
from bido_ext.lab.data.synthetic import synthetic_digits
from bido_ext.lab.defences import Defence, Plan
from bido_ext.lab.models import build_model
from bido_ext.lab.models.checkpoint import load_model
from bido_ext.lab.training.train import TrainConfig, train_classifier

TINY = Plan(num_classes=5, images=100, batch_size=10, epochs=3)


def test_norms_are_replaced_and_the_file_says_so():
    model = build_model("vgg16", 5, options={"image_size": 32, "width": 0.125, "norm": "group"})
    assert not [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    with pytest.raises(ValueError, match="norm must be one of batch, group, got 'layer'"):
        build_model("mcnn", 5, options={"norm": "layer"})


def test_what_is_missing_is_told(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "bido-ext\[dp\]"'):
        Defence("dp-sgd").prepare(build_model("mcnn", 5, options={"norm": "group"}), TINY)


def test_batches_are_its_own():
    with pytest.raises(ValueError, match="draws the batches itself; sampler must be 'shuffle'"):
        TrainConfig(defence="dp-sgd", sampler="identity")


opacus = pytest.importorskip("opacus")


def prepared(model=None, plan=TINY, **weights):
    torch.manual_seed(0)
    model = model or build_model("mcnn", 5, options={"norm": "group"})
    defence = Defence("dp-sgd", weights)
    defence.prepare(model, plan)
    return model, defence, defence.rules[0]


def test_group_norm_is_that_of_opacus():
    from bido_ext.lab.models.norms import use_group_norm

    ours = build_model("mcnn", 5)
    theirs = opacus.validators.ModuleValidator.fix(ours)
    use_group_norm(ours)
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(3, 1, 32, 32)
    assert torch.equal(ours(x), theirs(x))


def test_batch_norm_is_refused():
    with pytest.raises(ValueError, match="'dp-sgd' cannot train this model: .*BatchNorm"):
        prepared(build_model("mcnn", 5))


def test_a_step_is_the_sum_of_clipped_gradients_and_noise():
    model, defence, rule = prepared(noise=1e-9, clip=0.05)
    x, y = torch.rand(7, 1, 32, 32), torch.arange(7) % 5
    wanted = [torch.zeros_like(p) for p in model.parameters()]
    for image, label in zip(x.split(1), y.split(1), strict=True):
        grads = torch.autograd.grad(F.cross_entropy(model(image), label), list(model.parameters()))
        norm = torch.cat([g.flatten() for g in grads]).norm()
        for total, grad in zip(wanted, grads, strict=True):
            total += grad * min(1.0, 0.05 / float(norm)) / 10  # the batch size that is expected
    optimizer = defence.optimizer(torch.optim.SGD(model.parameters(), 1.0))
    before = [p.detach().clone() for p in model.parameters()]
    with defence.attached(model):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    for start, parameter, gradient in zip(before, model.parameters(), wanted, strict=True):
        torch.testing.assert_close(start - parameter, gradient, rtol=1e-3, atol=1e-6)
    assert not hasattr(next(model.parameters()), "grad_sample")
    # The noise has the width noise * clip / expected batch size.
    _, defence, rule = prepared(model, noise=50.0, clip=0.05)
    optimizer = defence.optimizer(torch.optim.SGD(model.parameters(), 1.0))
    before = [p.detach().clone() for p in model.parameters()]
    with defence.attached(model):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, model.parameters(), strict=True)])
    assert float(moved.std()) == pytest.approx(50 * 0.05 / 10, rel=0.02)
    assert rule.accountant.history == [(50.0, 0.1, 1)]


def test_every_image_comes_with_the_same_probability():
    _, _, rule = prepared(plan=Plan(5, 1000, 100, 1))
    drawn = [b for seed in range(40) for b in rule.batches(torch.Generator().manual_seed(seed))]
    assert len(drawn) == 400
    sizes = torch.tensor([float(len(batch)) for batch in drawn])
    assert float(sizes.mean()) == pytest.approx(100, abs=2)
    assert float(sizes.std()) == pytest.approx((1000 * 0.1 * 0.9) ** 0.5, rel=0.15)
    assert all(len(batch.unique()) == len(batch) for batch in drawn)


def test_epsilon_is_what_opacus_reports(tmp_path):
    task = split_digits(synthetic_digits(400, 200))
    config = TrainConfig(defence="dp-sgd", epochs=2, batch_size=32, weights={"noise": 0.8})
    result = train_classifier(config, task, tmp_path, progress=False)
    steps = len(task.train) // 32
    theirs = opacus.PrivacyEngine(accountant="rdp")
    for _ in range(2 * steps):
        theirs.accountant.step(noise_multiplier=0.8, sample_rate=32 / len(task.train))
    epsilons = [row["epsilon"] for row in result.history]
    assert epsilons[0] < epsilons[1] == pytest.approx(theirs.get_epsilon(1e-5), rel=1e-12)
    model, facts = load_model(tmp_path / "model.pt")
    assert facts["metrics"]["epsilon"] == epsilons[1]
    assert facts["arch_options"] == {"norm": "group"}
    assert any(isinstance(m, nn.GroupNorm) for m in model.modules())


def test_the_noise_for_an_epsilon_spends_it():
    _, defence, rule = prepared(plan=Plan(5, 1000, 50, 4), epsilon=3.0)
    for _ in range(4 * 20):
        rule.accountant.step(noise_multiplier=rule.noise, sample_rate=0.05)
    assert 2.9 < defence.told()["epsilon"] <= 3.0 + 1e-6
    config = TrainConfig(defence="dp-sgd", weights={"epsilon": 3.0})
    assert "depends on the number of epochs" in config.stuck
    assert TrainConfig(defence="dp-sgd").can_go_on


def test_an_empty_batch_is_noise_alone():
    model, defence, rule = prepared()
    optimizer = defence.optimizer(torch.optim.SGD(model.parameters(), 1.0))
    before = [p.detach().clone() for p in model.parameters()]
    with defence.attached(model):
        F.cross_entropy(
            model(torch.rand(0, 1, 32, 32)), torch.zeros(0, dtype=torch.long)
        ).backward()
        optimizer.step()
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, model.parameters(), strict=True)])
    assert float(moved.std()) == pytest.approx(0.1, rel=0.02)
    assert len(rule.accountant.history) == 1

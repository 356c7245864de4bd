# SPDX-License-Identifier: Apache-2.0
"""The defences: what they add to the loss, and what they refuse."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F

from bido_ext import BiDOLoss, FeatureTaps
from bido_ext.lab.defences import (
    DEFENCES,
    Defence,
    Plan,
    arch_options_of,
    label_of,
    resolve_weights,
)
from bido_ext.lab.models import MCNN, BottleneckClassifier, build_model
from bido_ext.lab.models.skips import stages_of

TAPS = MCNN.layers
PLAN = Plan(num_classes=5, images=10, batch_size=10, epochs=2)


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
        if name == "dp-sgd" and find_spec("opacus") is None:
            continue
        options = arch_options_of(name, DEFENCES[name].weights) if name == "dp-sgd" else {}
        model = build_model("mcnn", 5, name, options)
        loss, parts, model, logits = _penalty(Defence(name, taps=TAPS), batch, model)
        total = logits.sum() if loss is None else logits.sum() + loss
        total.backward()
        for parameter in model.parameters():
            assert parameter.grad is None or torch.isfinite(parameter.grad).all()
        assert all(not part.requires_grad for part in parts.values())
        added = name in ("mid", "unilateral", "bido-hsic", "bido-coco")
        assert (loss is None) != added


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


def test_combination_adds_what_its_parts_add(batch):
    model = build_model("mcnn", 5, "mid+bido-hsic")
    assert isinstance(model, BottleneckClassifier)
    taps = model.taps
    both, parts, _, _ = _penalty(Defence("mid+bido-hsic", taps=taps), batch, model)
    names = ["kl", "d(x,body.layer1)"]
    assert [name for name in parts if name in names] == names
    hsic = sum(0.05 * parts[f"d(x,{t})"] - 0.5 * parts[f"d({t},y)"] for t in taps)
    torch.testing.assert_close(both.detach(), (0.1 * parts["kl"] + hsic).float())
    combined = Defence("bido-coco+ls+midre", {"alpha": -0.1}, TAPS)
    assert list(combined.weights) == [
        "lambda_x",
        "lambda_y",
        "alpha",
        "begins",
        "full",
        "least",
        "most",
    ]


def test_weights_of_one_name_are_told_apart():
    weights = resolve_weights("unilateral+bido-hsic", {"unilateral.lambda_x": 2})
    assert weights == {"unilateral.lambda_x": 2.0, "bido-hsic.lambda_x": 0.05, "lambda_y": 0.5}
    rules = Defence("unilateral+bido-hsic", weights, TAPS).rules
    assert rules[0].weights == {"lambda_x": 2.0}
    assert rules[1].weights == {"lambda_x": 0.05, "lambda_y": 0.5}


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("none+ls", {}, "each defence once, and not 'none'; got 'none\\+ls'"),
        ("ls+ls", {}, "names each defence once"),
        ("ls+", {}, "unknown defence ''"),
        ("ls", {"alpha": float("inf")}, "alpha must be a finite number, got inf"),
        ("ls", {"begins": -0.1}, "begins must be a finite number of at least 0"),
        ("midre", {"least": 0.5}, "0 < least <= most < 1, got 0.5 and 0.4"),
        ("at-at", {"iterations": 1.5}, "iterations must be a whole number, got 1.5"),
        ("trap-mid", {"alpha": 2}, "alpha must be at most 1, got 2"),
        ("dp-sgd", {"delta": 1}, "delta must lie between 0 and 1, got 1"),
        ("dp-sgd", {"clip": 0}, "clip must be positive, got 0"),
        ("dp-sgd", {"noise": 0}, "noise must be positive, or epsilon, which sets the noise"),
        ("dp-sgd+bido-hsic", {}, "under bido-hsic an image also changes what the others do"),
        (
            "at-at+dp-sgd",
            {},
            "under at-at an image also changes what the others do, or enters twice",
        ),
        ("rounding", {"digits": 1.5}, "digits must be a whole number, got 1.5"),
    ],
)
def test_bad_combinations_and_weights(name, weights, message):
    with pytest.raises(ValueError, match=message):
        Defence(name, weights, TAPS)


def test_label_smoothing_is_the_formula_and_its_schedule():
    rule = Defence("ls").rules[0]
    # As published for 100 epochs, counted from 0 there: 0 before 50, (e + 1 - 50) / 50, 1 from 75 on.
    wanted = [0.0 if e < 50 else (e + 1 - 50) / 50 if e < 75 else 1.0 for e in range(100)]
    assert [rule.factor(e + 1, 100) for e in range(100)] == pytest.approx(wanted)
    logits, y = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    assert torch.equal(rule.task_loss(logits, y, 1, 100), F.cross_entropy(logits, y))
    # PyTorch's own label smoothing is the same formula, for weights that it takes.
    positive = Defence("ls", {"alpha": 0.1, "begins": 0, "full": 0}).rules[0]
    torch.testing.assert_close(
        positive.task_loss(logits, y, 1, 1), F.cross_entropy(logits, y, label_smoothing=0.1)
    )
    log_p = logits.log_softmax(1)
    negative = 1.05 * F.nll_loss(log_p, y) + 0.05 * log_p.mean(1).mean()
    torch.testing.assert_close(rule.task_loss(logits, y, 100, 100), negative)


def test_erased_squares_have_the_area_asked_for():
    x = torch.rand(200, 3, 40, 40) + 2
    erased = Defence("midre").images(x, torch.Generator().manual_seed(0))
    gone = (erased != x).all(1)
    share = gone.flatten(1).float().mean(1)
    assert share.min() >= 0.1 - 0.02
    assert share.max() <= 0.4 + 0.02
    assert share.max() - share.min() > 0.2
    for image, mask in zip(erased, gone, strict=True):
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert len(rows) == len(columns)  # a square without holes
        assert int(mask.sum()) == len(rows) ** 2
        torch.testing.assert_close(
            image[:, rows[0], columns[0]], torch.tensor([0.485, 0.456, 0.406])
        )
    assert len({tuple(mask.nonzero()[0].tolist()) for mask in gone}) > 100, "squares lie elsewhere"
    grey = Defence("midre").images(torch.ones(4, 1, 32, 32), torch.Generator())
    assert ((grey == 1) | ((grey - 0.449).abs() < 1e-6)).all()


def test_frozen_layers_keep_weights_and_statistics(batch):
    model = build_model("mcnn", 5)
    defence = Defence("tl-dmi", {"share": 0.6})
    with pytest.raises(ValueError, match="needs pretrained weights"):
        defence.prepare(model, PLAN)
    defence.prepare(model, replace(PLAN, pretrained=True))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), 0.1, weight_decay=0.1)
    for _ in range(2):
        defence.set_training(model)
        optimizer.zero_grad()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()
    same = {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}
    # 4 of its 6 layers before the head: two convolutions, two batch norms.
    assert same == {key for key in before if key.startswith(("layer1.", "layer2."))}
    with pytest.raises(ValueError, match="share must freeze at least 1 and fewer than 6 layers"):
        Defence("tl-dmi", {"share": 1}).prepare(model, replace(PLAN, pretrained=True))


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("facenet64", {"image_size": 32, "width": 0.0625}),
        ("resnet-clsh", {"image_size": 32, "depth": 10}),
        ("torchvision/resnet50", {"image_size": 64}),
    ],
)
def test_skips_of_the_last_stage_are_gone(arch, options):
    plain = build_model(arch, 5, options=options).eval()
    asked = arch_options_of("rolss", {"stages": 1.0, "factor": 0.0})
    cut = build_model(arch, 5, "rolss", {**options, **asked}).eval()
    assert list(cut.state_dict()) == list(plain.state_dict())
    cut.load_state_dict(plain.state_dict())
    stages, others = stages_of(cut), stages_of(plain)
    assert [len(stage) for stage in stages] == [len(stage) for stage in others]
    assert len(stages) == 4
    for number, (mine, theirs) in enumerate(zip(stages, others, strict=True)):
        for block, same in zip(mine, theirs, strict=True):
            name = "shortcut_layer" if hasattr(block, "shortcut_layer") else "downsample"
            first = next(
                m for m in block.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.BatchNorm2d)
            )
            width = getattr(first, "in_channels", None) or first.num_features
            x = torch.rand(2, width, 8, 8)
            skip, kept = getattr(block, name), getattr(same, name)
            if number == 3:
                assert not skip(x).any()
            else:
                assert (skip is None) == (kept is None)
                assert skip is None or torch.equal(skip(x), kept(x))
    shape = plain.input_shape
    assert not torch.equal(cut(torch.ones(1, *shape)), plain(torch.ones(1, *shape)))
    soft = build_model(arch, 5, options={**options, "skip_stages": 1, "skip_factor": 1.0})
    soft.load_state_dict(plain.state_dict())
    x = torch.rand(1, *shape)
    assert torch.equal(soft.eval()(x), plain(x))


def test_networks_without_skips_refuse_rolss():
    with pytest.raises(ValueError, match="this network has none"):
        build_model("mcnn", 5, options={"skip_stages": 1})
    with pytest.raises(ValueError, match="has 4 stages with skips, got 5"):
        build_model("resnet-clsh", 5, options={"skip_stages": 5})
    with pytest.raises(ValueError, match="stages must be a whole number of at least 1, got 1.5"):
        arch_options_of("rolss", {"stages": 1.5, "factor": 0.0})


def test_two_defences_of_one_option_are_refused():
    weights = resolve_weights("rolss+rolss-ssf", {})
    with pytest.raises(ValueError, match="two defences of .* set skip_stages, skip_factor"):
        arch_options_of("rolss+rolss-ssf", weights)


def test_scaled_skips_carry_the_published_share():
    asked = arch_options_of("rolss-ssf", resolve_weights("rolss-ssf", {}))
    model = build_model("resnet-clsh", 5, "rolss-ssf", {"depth": 10, "image_size": 32, **asked})
    for number, stage in enumerate(stages_of(model.eval())):
        for block in stage:
            x = torch.rand(2, block.conv1.in_channels, 8, 8)
            skip = block.downsample
            plain = x if skip is None or len(skip) == 1 else skip[:-1](x)
            carried = x if skip is None else skip(x)
            if number == 3:
                torch.testing.assert_close(carried, 0.2 * plain)
            elif skip is not None:
                assert torch.equal(carried, skip(x))


def test_answers_are_rounded_or_labels_alone():
    p = torch.tensor([[0.127, 0.623, 0.25], [0.5, 0.2, 0.3]])
    rounded = torch.tensor([[0.1, 0.6, 0.2], [0.5, 0.2, 0.3]])
    torch.testing.assert_close(Defence("rounding", {"digits": 1}).answers(p), rounded)
    labels = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert torch.equal(Defence("bido-hsic+label-only", taps=TAPS).answers(p), labels)
    assert torch.equal(Defence("ls").answers(p), p)


def test_every_defence_says_its_source_and_label():
    assert all(spec.label and spec.description for spec in DEFENCES.values())
    assert label_of("bido-hsic+ls") == "BiDO-HSIC + label smoothing"

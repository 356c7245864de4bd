# SPDX-License-Identifier: Apache-2.0
"""bx.suggest_weights: pulls and push against gradients written out, ladders, and a model left as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

import bido_ext as bx

LAYERS = ["0", "3"]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.BatchNorm1d(8),
        nn.Dropout(0.2),
        nn.Linear(8, 5),
        nn.Tanh(),
        nn.Linear(5, 3),
    )


def batches(count: int = 3, n: int = 16) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.randn(n, 6, generator=generator), torch.arange(n) % 3


def norm(grads: tuple[Tensor | None, ...]) -> float:
    return float(sum(g.square().sum() for g in grads if g is not None) ** 0.5)


@pytest.mark.parametrize("measure", ["hsic", "nhsic", "coco", "cka"])
def test_pull_and_push_are_norms_of_gradients(measure: str) -> None:
    model = net().eval()
    (x, y), *_ = batches()
    found = bx.suggest_weights(model, LAYERS, [(x, y)], measures=[measure], sigma=2.0)[measure]
    parameters = list(model.parameters())
    z0 = model[0](x)
    z3 = model[3](model[2](model[1](z0)))
    op = getattr(bx, measure)
    labels = nn.functional.one_hot(y, 3).to(torch.float32)
    with_x = op(x, z0, sigma=2.0) + op(x, z3, sigma=2.0)
    with_y = sum(op(z, labels, kernel_x=bx.Gaussian(2.0), kernel_y=bx.Linear()) for z in (z0, z3))

    def pull(value: Tensor) -> float:
        return norm(torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True))

    assert found.pull_x == pytest.approx(pull(with_x), rel=1e-4)
    assert found.pull_y == pytest.approx(pull(with_y), rel=1e-4)
    assert sum(found.terms_x.values()) == pytest.approx(float(with_x.detach()), rel=1e-5)
    assert sum(found.terms_y.values()) == pytest.approx(float(with_y.detach()), rel=1e-5)
    # Of an undecided prediction every class has probability 1/3.
    out = model(x)
    push = torch.autograd.grad(out, parameters, (1 / 3 - labels) / len(x))
    assert found.push == pytest.approx(norm(push), rel=1e-5)


def test_the_push_does_not_vanish_as_the_model_learns() -> None:
    found = []
    for scale in (10.0, 1000.0):
        model = net().eval()
        (x, _), *_ = batches()
        y = model(x).argmax(1)  # the model is right, and the more so the larger its last layer
        with torch.no_grad():
            model[5].weight *= scale
            model[5].bias *= scale
        found.append(bx.suggest_weights(model, LAYERS, [(x, y)], measures=["hsic"]))
    assert found[1].loss < found[0].loss / 10
    assert found[1].gradient / found[1].push < 0.3 * found[0].gradient / found[0].push
    assert found[1].push > found[0].push


def test_seen_is_the_input_of_the_terms() -> None:
    (x, y), *_ = batches()
    scaled = bx.suggest_weights(
        net().eval(), LAYERS, [(x, y)], measures=["hsic"], seen=lambda x: 3 * x
    )
    plain = bx.suggest_weights(net().eval(), LAYERS, [(x, y)], measures=["hsic"])
    z0 = net().eval()[0](x)
    assert scaled["hsic"].terms_x["0"] == pytest.approx(
        float(bx.hsic(3 * x, z0).detach()), rel=1e-5
    )
    assert plain["hsic"].terms_x["0"] == pytest.approx(float(bx.hsic(x, z0).detach()), rel=1e-5)


def test_the_picture_shows_every_rung() -> None:
    found = bx.suggest_weights(net(), LAYERS, batches(1), measures=["nhsic", "hsic"])
    figure = found.plot()
    (axes,) = figure.axes
    told = [float(text.get_text()) for text in axes.texts]
    rungs = [rung for ladder in found.ladders.values() for rung in ladder.rungs]
    weights = [value for rung in rungs for value in (rung.lambda_x, rung.lambda_y)]
    assert told == pytest.approx(weights, rel=0.05)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["nhsic", "hsic"]


def test_rungs_have_the_shares_asked_for() -> None:
    shares = (0.02, 0.2, 2.0)
    found = bx.suggest_weights(net(), LAYERS, batches(), shares=shares, y_per_x=0.5)
    assert sorted(found.ladders) == ["cka", "coco", "hsic", "nhsic"]
    for ladder in found.ladders.values():
        assert [rung.share_x for rung in ladder.rungs] == pytest.approx(list(shares), rel=0.05)
        assert [rung.share_y for rung in ladder.rungs] == pytest.approx(
            [share / 2 for share in shares], rel=0.05
        )
        for rung in ladder.rungs:
            assert rung.share_x == pytest.approx(rung.lambda_x * ladder.pull_x / ladder.push)
            assert float(f"{rung.lambda_x:.1e}") == rung.lambda_x
        assert ladder.middle is ladder.rungs[1]
    assert found["nhsic"].published is not None
    assert found["hsic"].published is None
    assert (found.batches, found.samples) == (3, 48)
    table = str(found)
    assert "start here" in table
    assert "published" in table
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["ladders"]["coco"]["rungs"][0]["lambda_x"] == found["coco"].rungs[0].lambda_x
    bx.BiDOLoss("nhsic", **found["nhsic"].middle.weights)
    with pytest.raises(KeyError, match="was not measured"):
        found["dcor"]


def test_the_model_is_left_as_it_was() -> None:
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model[0].weight.grad = torch.ones_like(model[0].weight)
    taps = bx.FeatureTaps(model, LAYERS)
    hooks = len(model[0]._forward_hooks)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = bx.suggest_weights(model, taps, batches(), measures=["cka"])
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert len(model[0]._forward_hooks) == hooks
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[3].weight.grad is None
    torch.manual_seed(5)
    with torch.no_grad():  # as in a validation loop
        again = bx.suggest_weights(model, LAYERS, batches(), measures=["cka"])
    assert again.to_dict() == first.to_dict()
    assert len(model[0]._forward_hooks) == hooks


def test_outputs_are_picked_and_losses_replaced() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.body(x)}

    with pytest.raises(TypeError, match="outputs="):
        bx.suggest_weights(Wrapped().eval(), ["body.0"], batches(), measures=["hsic"])
    one = bx.suggest_weights(
        Wrapped().eval(),
        ["body.0"],
        batches(),
        measures=["hsic"],
        outputs=lambda out: out["logits"],
    )
    two = bx.suggest_weights(net().eval(), ["0"], batches(), measures=["hsic"])
    assert one["hsic"].rungs == two["hsic"].rungs
    targets = ((x, x[:, :3]) for x, _ in batches())
    regression = bx.suggest_weights(
        net(), LAYERS, targets, nn.functional.mse_loss, measures=["hsic"], kernel_y=bx.Gaussian(1.0)
    )
    assert regression["hsic"].push > 0


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"batches": []}, ValueError, "batches is empty"),
        ({"batches": [torch.randn(4, 6)]}, TypeError, "pairs"),
        ({"batches": [(torch.randn(4, 6), [0, 1, 2, 0])]}, TypeError, "y must be a tensor"),
        ({"measures": []}, ValueError, "measures is empty"),
        ({"measures": ["dcor"]}, ValueError, "measures must be one of"),
        ({"shares": [0.1, -1.0]}, ValueError, "shares"),
        ({"shares": []}, ValueError, "shares is empty"),
        ({"y_per_x": 0.0}, ValueError, "y_per_x"),
        ({"lambda_x": 0.1}, TypeError, "lambda_x"),
        ({"taps": ["9"]}, ValueError, "9"),
        ({"loss": lambda out, y: out}, TypeError, "one number"),
        ({"sigmas": 3.0}, TypeError, "sigmas"),
    ],
)
def test_bad_input(change: dict, error: type[Exception], words: str) -> None:
    given = {"model": net(), "taps": LAYERS, "batches": batches(), "measures": ["hsic"]} | change
    with pytest.raises(error, match=words):
        bx.suggest_weights(**given)


def test_nothing_to_train() -> None:
    model = net().eval()
    for module in model[:5]:
        module.requires_grad_(False)
    with (
        pytest.warns(UserWarning, match="carry no gradient"),
        pytest.raises(ValueError, match="in front of the tapped layers"),
    ):
        bx.suggest_weights(model, LAYERS, batches(), measures=["hsic"])
    with pytest.raises(ValueError, match="no parameter"):
        bx.suggest_weights(model.requires_grad_(False), LAYERS, batches(), measures=["hsic"])

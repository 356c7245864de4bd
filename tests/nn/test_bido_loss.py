# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bido_ext as bx
from bido_ext import reference

MEASURES = ["hsic", "nhsic", "coco", "cka"]
X = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) % 3
Z = torch.rand(12, 5, generator=torch.Generator().manual_seed(2))


def small_model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )


def textbook(measure: str, x: Tensor, y: Tensor) -> Tensor:
    """The measure from the reference formulas: Gaussian sigma 5 sqrt(d), linear one-hot labels."""
    K = reference.gaussian_gram(x, 1 / (50 * x.shape[1]))
    if y.dtype == torch.int64:
        L = F.one_hot(y).double() @ F.one_hot(y).double().T
    else:
        L = reference.gaussian_gram(y, 1 / (50 * y.shape[1]))
    return {
        "hsic": reference.hsic,
        "nhsic": reference.nhsic,
        "cka": reference.cka,
        "coco": lambda a, b: reference.coco(a, b, "spectral"),
    }[measure](K, L)


@pytest.mark.parametrize("measure", MEASURES)
def test_equals_the_published_objective(measure: str) -> None:
    x = X.double()
    z1 = torch.rand(12, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    z2 = torch.rand(12, 7, dtype=torch.float64, requires_grad=True)
    criterion = bx.BiDOLoss(measure=measure, lambda_x=0.3, lambda_y=2.0)
    value = criterion(x, {"a": z1, "b": z2}, Y)
    grads = torch.autograd.grad(value, (z1, z2))
    expected = sum(
        0.3 * textbook(measure, z.flatten(1), x.flatten(1))
        - 2.0 * textbook(measure, z.flatten(1), Y)
        for z in (z1, z2)
    )
    torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-12)
    for grad, want in zip(grads, torch.autograd.grad(expected, (z1, z2)), strict=True):
        torch.testing.assert_close(grad, want, rtol=1e-5, atol=1e-9)
    assert list(criterion.terms) == ["a", "b"]
    term = criterion.terms["b"]
    assert not term.x.requires_grad
    torch.testing.assert_close(
        term.x.double(), textbook(measure, z2, x.flatten(1)), rtol=1e-7, atol=0
    )
    torch.testing.assert_close(term.y.double(), textbook(measure, z2, Y), rtol=1e-7, atol=0)


@pytest.mark.parametrize("measure", MEASURES)
def test_three_lines_in_a_training_loop(measure: str) -> None:
    model = small_model()
    taps = bx.FeatureTaps(model, ["1", "3"])
    criterion = bx.BiDOLoss(measure=measure, lambda_x=0.1, lambda_y=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    logits = model(X)
    loss = F.cross_entropy(logits, Y) + criterion(X, taps.features, Y)
    loss.backward()
    optimizer.step()
    assert loss.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("measure", MEASURES)
def test_zero_weights_train_bit_identically(measure: str) -> None:
    def train(with_bido: bool) -> list[Tensor]:
        model = small_model()
        taps = bx.FeatureTaps(model, ["1", "3"])
        criterion = bx.BiDOLoss(measure=measure, lambda_x=0, lambda_y=0)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(5):
            loss = F.cross_entropy(model(X), Y)
            if with_bido:
                loss = loss + criterion(X, taps.features, Y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return [p.detach() for p in model.parameters()]

    for with_bido, without in zip(train(True), train(False), strict=True):
        assert torch.equal(with_bido, without)


def test_a_term_without_weight_is_reported_but_has_no_gradient() -> None:
    z = torch.rand(12, 5, requires_grad=True)
    criterion = bx.BiDOLoss("nhsic", lambda_x=0, lambda_y=1)
    (only_y,) = torch.autograd.grad(criterion(X, [z], Y), z)
    (expected,) = torch.autograd.grad(-bx.nhsic(z, Y), z)
    torch.testing.assert_close(only_y, expected)
    assert float(criterion.terms["0"].x) > 0


@pytest.mark.parametrize("measure", MEASURES)
def test_compile_fullgraph(measure: str) -> None:
    def step(
        model: nn.Module, taps: bx.FeatureTaps, criterion: nn.Module, x: Tensor, y: Tensor
    ) -> Tensor:
        return F.cross_entropy(model(x), y) + criterion(x, taps.features, y)

    grads = []
    for wrap in (lambda f: f, lambda f: torch.compile(f, fullgraph=True)):
        torch._dynamo.reset()
        model = small_model().double()  # in float32 the two differ by the convolution's round-off
        taps = bx.FeatureTaps(model, ["1", "3"])
        criterion = bx.BiDOLoss(measure=measure, lambda_x=0.1, lambda_y=1.0)
        loss = wrap(step)(model, taps, criterion, X.double(), Y)
        loss.backward()
        grads.append([loss.detach(), *(p.grad for p in model.parameters())])
        assert list(criterion.terms) == ["1", "3"]
    for compiled, eager in zip(grads[1], grads[0], strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("measure", MEASURES)
def test_autocast_keeps_gram_matrices_wide(measure: str) -> None:
    model = small_model()
    taps = bx.FeatureTaps(model, ["1", "3"])
    criterion = bx.BiDOLoss(measure=measure)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(X)
        loss = F.cross_entropy(logits, Y) + criterion(X, taps.features, Y)
    assert taps.features["3"].dtype == torch.bfloat16
    loss.backward()
    wide = criterion(X.double(), {k: v.detach().double() for k, v in taps.features.items()}, Y)
    with torch.autocast("cpu", torch.bfloat16):
        value = criterion(X, {k: v.detach() for k, v in taps.features.items()}, Y)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), wide, rtol=1e-4, atol=1e-9)


def test_channels_last_and_no_grad() -> None:
    z = torch.rand(12, 4, 3, 3)
    criterion = bx.BiDOLoss("hsic")
    with torch.no_grad():
        plain = criterion(X, [z], Y)
        last = criterion(X, [z.contiguous(memory_format=torch.channels_last)], Y)
    torch.testing.assert_close(last, plain)


def with_nan(z: Tensor) -> Tensor:
    z = z.clone()
    z[0, 0] = float("nan")
    return z


@pytest.mark.parametrize(
    ("x", "features", "y", "error", "message"),
    [
        (X, {}, Y, ValueError, "features is empty: run the model's forward pass before the loss"),
        (X, [], Y, ValueError, "features is empty"),
        (X, Z, Y, TypeError, "features must be a dict of layer name to tensor or a list of tensors"),
        (X, {"fc": with_nan(Z)}, Y, ValueError, r"features of layer 'fc' contain\(s\) NaN or Inf"),
        (X, {"fc": Z[0]}, Y, ValueError, r"features of layer 'fc' must be a floating-point batch"),
        (X, {"fc": Z[:5]}, Y, ValueError, "x and features of layer 'fc' must have the same number of samples, got 12 and 5"),
        (X, {"fc": Z.to("meta")}, Y, ValueError, "features of layer 'fc' on meta"),
        (X, {"fc": Z[:, :0]}, Y, ValueError, "features of layer 'fc' has no features"),
        (X, {"fc": Z}, Y[:4], ValueError, "same number of samples, got 12 and 4"),
        (X, {"fc": Z}, Y.float(), ValueError, "class labels must be integers"),
        (X, {"fc": Z}, Y + 1, ValueError, r"labels from 1 to 3; allowed: 0\.\.2"),
        (X, {"fc": Z}, Y - 1, ValueError, "labels from -1 to 1"),
        (X[:0], {"fc": Z[:0]}, Y[:0], ValueError, r"x has 0 sample\(s\), at least 2 are needed"),
        (X, {"fc": Z[:1]}, Y, ValueError, r"features of layer 'fc' has 1 sample\(s\), at least 2"),
        (with_nan(X.flatten(1)), {"fc": Z}, Y, ValueError, r"x contain\(s\) NaN or Inf"),
        (
            X, {"fc": Z.double() * 1e200}, Y, ValueError,
            r"layer 'fc' is not finite although its features are .* squares of features of layer 'fc' overflow",
        ),
        (X.long(), {"fc": Z}, Y, ValueError, "x must be a floating-point batch"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("measure", ["nhsic", "coco"])
def test_bad_input(
    measure: str, x: Any, features: Any, y: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        bx.BiDOLoss(measure, num_classes=3)(x, features, y)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"measure": "mmd"},
            ValueError,
            "measure must be one of hsic, nhsic, coco, cka; got 'mmd'",
        ),
        ({"lambda_x": -1}, ValueError, "lambda_x must be finite and not negative, got -1"),
        ({"lambda_y": "0.5"}, TypeError, "lambda_y must be a number, got str"),
        ({"eps": 0}, ValueError, "eps must be positive"),
        ({"coco_norm": "nuclear"}, ValueError, "coco_norm must be one of spectral, fro"),
        ({"kernel_y": "linear"}, TypeError, "kernel_y must be a kernel"),
        (
            {"measure": "nhsic", "workspace_bytes": 10**6},
            ValueError,
            "workspace_bytes needs a measure that can stream, hsic or cka; got measure='nhsic'",
        ),
        ({"measure": "coco", "workspace_bytes": 10**6}, ValueError, "got measure='coco'"),
        (
            {"measure": "hsic", "workspace_bytes": 0},
            ValueError,
            "workspace_bytes must be positive, got 0",
        ),
        (
            {"measure": "cka", "workspace_bytes": 1e6},
            TypeError,
            "workspace_bytes must be an integer",
        ),
    ],
)
def test_bad_settings(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bx.BiDOLoss(**arguments)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_term_without_weight_cannot_spoil_the_gradient_unseen(measure: str) -> None:
    z = Z.double().requires_grad_()
    criterion = bx.BiDOLoss(measure, lambda_x=0.0, lambda_y=1.0)
    with pytest.raises(ValueError, match="is not finite|contain"):
        criterion(X.flatten(1).double() * 1e200, [z], Y)
    found, alone = (
        torch.autograd.grad(criterion(x.flatten(1).double(), [z], Y), z)[0] for x in (X * 1e25, X)
    )
    torch.testing.assert_close(found, alone, rtol=1e-7, atol=1e-12)


def test_one_wide_layer_makes_the_value_wide() -> None:
    value = bx.BiDOLoss("hsic")(X, [Z.double()], Y)
    assert value.dtype == torch.float64
    assert bx.BiDOLoss("hsic")(X, [Z], Y).dtype == torch.float32

# SPDX-License-Identifier: Apache-2.0
"""What a stranger passes: numpy's numbers work, and refusals say what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bido_ext as bx

X, LABELS = torch.randn(8, 3), torch.arange(8) % 3


@pytest.mark.parametrize("kernel", [bx.Gaussian, bx.Laplacian])
def test_numbers_of_numpy_are_numbers(kernel: Callable[..., bx.Kernel]) -> None:
    narrow, exact = np.float32(0.3), float(np.float32(0.3))
    made = bx.hsic(X, LABELS, kernel(sigma=narrow), num_classes=np.int64(3))  # type: ignore[arg-type]
    assert made == bx.hsic(X, LABELS, kernel(sigma=exact), num_classes=3)
    assert float(bx.nhsic(X, LABELS, eps=np.float32(1e-3))) > 0
    test = bx.independence_test(X, LABELS, permutations=np.int64(9), seed=np.int32(1))
    assert len(test.null) == 9
    assert bx.plan(np.int64(64), [np.int64(3), 0]) == bx.plan(64, [3, 0])
    assert bx.Polynomial(np.int64(2)).label_scale(3) == bx.Polynomial(2).label_scale(3)
    assert bx.Mixture([bx.Gaussian()], torch.tensor([2.0])).weights == (2.0,)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bx.mmd(X, LABELS), TypeError, "class labels have no place here"),
        (lambda: bx.mmd(X[:0], X), ValueError, r"x has 0 sample\(s\), at least 1 is needed\."),
        (lambda: bx.hsic(X.numpy(), LABELS), TypeError, r"torch.as_tensor\(x\)"),
        (lambda: bx.hsic(X.tolist(), LABELS), TypeError, r"torch.as_tensor\(x\)"),
        (lambda: bx.hsic(X, LABELS - 1), ValueError, "Leave out samples without a label"),
        (lambda: bx.hsic(X, LABELS.to(torch.uint16)), TypeError, r"turn labels into y.long\(\)"),
        (lambda: bx.BiDOLoss()(X, [X], LABELS.to(torch.uint32)), TypeError, r"turn labels into y.long\(\)"),
        (lambda: bx.hsic(torch.quantize_per_tensor(X, 0.1, 0, torch.qint8), X), TypeError, r"x.dequantize\(\)"),
        (lambda: bx.Gaussian(10**400), ValueError, "positive and finite, got inf"),
        (lambda: bx.Gaussian([1.0]), TypeError, 'a 0-d tensor or "median", got list'),
        (lambda: bx.Mixture(bx.Gaussian()), TypeError, "must be a list of kernels"),
        (lambda: bx.Mixture([bx.Gaussian()], 2.0), TypeError, "weights must be a list"),
        (lambda: bx.tune(8, [3, 4], device="gpu"), ValueError, "none that PyTorch knows"),
        (lambda: bx.tune(8, [3, 4], measures="hsic"), ValueError, "must be a list of measures"),
        (lambda: bx.independence_test(X.to("meta"), X.to("meta")), ValueError, "no values"),
        (lambda: torch.jit.trace(bx.hsic, (X, X)), RuntimeError, "torch.jit.trace: use torch.exp"),
        (lambda: bx.FeatureTaps("model", ["0"]), TypeError, "model must be a torch.nn.Module"),
        (lambda: bx.BiDOLoss()(LABELS[:, None], [X], LABELS), ValueError, r"pixels are x.float\(\)"),
        (lambda: bx.BiDOLoss()(X, [X[:, 0]], LABELS), ValueError, "is a column"),
        (lambda: bx.BiDOLoss()(X, {0: X, "0": X}, LABELS), ValueError, "of the same name"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_to_do(
    call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


def test_meta_tensors_and_keys_that_are_numbers() -> None:
    x = X.to("meta")
    assert bx.mmd(x, x).shape == ()
    assert bx.hsic(x, x, bx.Polynomial(), bx.Mixture([bx.Linear()])).shape == ()
    criterion = bx.BiDOLoss(guard=False)
    leaf = X.clone().requires_grad_()
    criterion(X, {0: leaf}, LABELS).backward()
    assert list(criterion.terms) == ["0"]


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, _ = self.rnn(x)
        out: torch.Tensor = self.head(states[:, -1])
        return out


def test_layer_similarity_takes_what_is_picked() -> None:
    """The error about a tuple advises a dict, which was taken and ignored."""
    model, batch = _Recurrent(), torch.randn(12, 5, 3)
    similarity = bx.LayerSimilarity(model, layers={"rnn": 0, "head": None})
    similarity.update(batch)
    states = model.rnn(batch)[0].flatten(1)
    linear = bx.Linear()
    truth = bx.cka(states, model(batch), linear, linear, estimator="unbiased").detach()
    assert similarity.layers == ("rnn", "head")
    torch.testing.assert_close(similarity.compute().matrix[0, 1], truth.double(), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="the batch is empty"):
        similarity.update(batch[:0])


def test_a_module_that_runs_twice_has_one_name() -> None:
    layer = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="layer '2' is the same module as '0'"):
        bx.FeatureTaps(nn.Sequential(layer, nn.ReLU(), layer), ["2"])


def test_micro_batches_outside_of_no_grad() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3))
    taps = bx.FeatureTaps(model, ["0"])
    step = bx.MicroBatchedBiDO(model, taps, bx.BiDOLoss(), np.int64(4))  # type: ignore[arg-type]
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"under torch\.no_grad"):
        step.backward(X, LABELS)
    with pytest.raises(TypeError, match="x must be a tensor"):
        step.backward({"x": X}, LABELS)  # type: ignore[arg-type]
    step.backward(X, LABELS)

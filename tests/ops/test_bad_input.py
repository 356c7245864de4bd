# SPDX-License-Identifier: Apache-2.0
"""Every refusal is one sentence that names the argument, what was given and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import bido_ext as bx
from bido_ext.reference.gram_stack import GRAM, LABELS

X = torch.rand(6, 4)
Y = torch.arange(6) % 3
MEASURES = [bx.hsic, bx.nhsic, bx.coco, bx.cka]
each_measure = pytest.mark.parametrize("measure", MEASURES, ids=lambda f: f.__name__)


@each_measure
@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        ("x", Y, TypeError, "x must be a tensor, got str"),
        (X.long(), Y, TypeError, "x must be float64, float32, bfloat16 or float16, got torch.int64"),
        (X[0], Y, ValueError, r"x must have shape \(n, d\), got \(4,\)"),
        (X[None], Y, ValueError, r"x must have shape \(n, d\), got \(1, 6, 4\): flatten it first"),
        (X[:, :0], Y, ValueError, "x has no features"),
        (X[:1], Y[:1], ValueError, r"x has 1 sample\(s\), at least 2"),
        (X[:0], Y[:0], ValueError, r"x has 0 sample\(s\)"),
        (X, Y[:5], ValueError, "same number of samples, got 6 and 5"),
        (X, Y[:, None], ValueError, r"y holds integers, so it must be a vector of labels \(n,\), got \(6, 1\)"),
        (X, Y.float(), ValueError, r"y must have shape \(n, d\), got \(6,\)"),
        (X, Y - 1, ValueError, "y has labels from -1 to 1; allowed: non-negative"),
        (X, X.to("meta"), ValueError, "x is on cpu and y on meta"),
        (X, Y > 0, TypeError, "y must be float64, float32, bfloat16 or float16, got torch.bool"),
        (X.index_fill(1, torch.tensor([2]), float("nan")), Y, ValueError, r"x contain\(s\) NaN or Inf"),
        (X, X.index_fill(1, torch.tensor([2]), float("inf")), ValueError, r"y contain\(s\) NaN or Inf"),
        (X.double() * 1e160, Y, ValueError, "The squares of x overflow float64: scale it down"),
    ],
)  # fmt: skip
def test_measures(
    measure: Callable[..., Any], x: Any, y: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        measure(x, y)


@each_measure
def test_label_range_and_kernels(measure: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"labels from 0 to 2; allowed: 0\.\.1"):
        measure(X, Y, num_classes=2)
    with pytest.raises(TypeError, match="kernel_x must be a kernel such as Gaussian"):
        measure(X, Y, kernel_x="gaussian")
    with pytest.raises(TypeError, match=r"kernel_y must be a kernel.*got float"):
        measure(X, Y, kernel_y=5.0)
    with pytest.raises(ValueError, match="needs num_classes"):
        measure(X, Y, kernel_y=bx.Gaussian(5.0))
    with pytest.raises(ValueError, match="needs a number as sigma; got median"):
        measure(X, Y, kernel_y=bx.Gaussian("median"), num_classes=3)


@pytest.mark.parametrize(
    ("sigma", "error", "message"),
    [
        (0, ValueError, "sigma must be positive and finite, got 0"),
        (-1.5, ValueError, "sigma must be positive and finite, got -1.5"),
        (float("nan"), ValueError, "sigma must be positive and finite, got nan"),
        (float("inf"), ValueError, "sigma must be positive and finite, got inf"),
        (True, TypeError, "sigma must be a positive number.*got bool"),
        (None, TypeError, "sigma must be a positive number.*got NoneType"),
        ("mean", ValueError, "\"median\"; got 'mean'"),
        (torch.ones(2), ValueError, r"sigma must be a 0-d floating-point tensor, got shape \(2,\)"),
        (torch.tensor(2), ValueError, "0-d floating-point tensor"),
        (torch.tensor(-1.0), ValueError, "sigma must be positive"),
    ],
)
def test_bandwidth(sigma: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bx.gaussian_gram(X, sigma=sigma)
    with pytest.raises(error, match=message):
        bx.Gaussian(sigma)
    with pytest.raises(error, match=message):
        bx.BiDOLoss(sigma=sigma)


def test_words_and_numbers() -> None:
    with pytest.raises(ValueError, match="estimator must be one of biased, unbiased; got 'u'"):
        bx.hsic(X, Y, estimator="u")
    with pytest.raises(ValueError, match=r"x has 3 sample\(s\), at least 4"):
        bx.hsic(X[:3], Y[:3], estimator="unbiased")
    with pytest.raises(ValueError, match="norm must be one of spectral, fro; got 2"):
        bx.coco(X, Y, norm=2)
    with pytest.raises(ValueError, match="eps must be positive"):
        bx.nhsic(X, Y, eps=0)
    with pytest.raises(ValueError, match="linalg_dtype must be torch.float32 or torch.float64"):
        bx.nhsic(X, Y, linalg_dtype=torch.float16)
    with pytest.raises(TypeError, match="K must be float32 or float64, got torch.bfloat16"):
        bx.double_center(torch.ones(3, 3, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match=r"K must be a square matrix \(n, n\), got \(3, 2\)"):
        bx.double_center(torch.ones(3, 2))


def test_kernels_guard_memory_below_python() -> None:
    with pytest.raises(RuntimeError, match="must be square"):
        torch.ops.bido_ext.double_center(torch.ones(2, 3))
    ones, gram_kinds = torch.ones(2, dtype=torch.float64), [GRAM, GRAM]
    hsic, pair = torch.ops.bido_ext.hsic, ([0], [1], False, 8, -1)
    with pytest.raises(RuntimeError, match="variables must have the same rows"):
        hsic([torch.ones(2, 2), torch.ones(3, 3)], ones, gram_kinds, *pair)
    with pytest.raises(RuntimeError, match=r"a Gram matrix must be \(n, n\)"):
        hsic([torch.ones(3, 2), torch.ones(3, 3)], ones, gram_kinds, *pair)
    with pytest.raises(RuntimeError, match="a pair names a variable that is not there"):
        hsic([X, X], ones, [0, 0], [0], [2], False, 8, -1)
    with pytest.raises(RuntimeError, match="positive tile"):
        hsic([X, X], ones, [0, 0], [0], [1], False, 0, -1)
    with pytest.raises(RuntimeError, match="must have one length"):
        torch.ops.bido_ext.gram_stack([X, X], ones[:1], [0, 0])
    with pytest.raises(RuntimeError, match="labels must be int64"):
        torch.ops.bido_ext.gram_stack([X, Y.int()], ones, [0, LABELS])
    with pytest.raises(RuntimeError, match="accumulate in the same dtype"):
        torch.ops.bido_ext.gram_stack([X, X.double()], ones, [0, 0])
    with pytest.raises(RuntimeError, match=r"grad and stack must be \(m, n, n\)"):
        torch.ops.bido_ext.gram_stack_backward(
            torch.ones(1, 2, 2), torch.ones(1, 2, 2), [X], ones[:1], [0]
        )
    with pytest.raises(RuntimeError, match=r"grad and gram must be \(n, n\)"):
        torch.ops.bido_ext.gaussian_gram_backward(
            torch.ones(2, 2), torch.ones(2, 2), torch.ones(5, 3), torch.tensor(1.0), True
        )

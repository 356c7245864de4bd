# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from oracle import features, relative_error

import bido_ext as bx
from bido_ext import reference
from bido_ext.ops.bandwidth import median_squared_distance

KERNELS = {
    "gaussian": bx.Gaussian(2.0),
    "gaussian unscaled": bx.Gaussian(0.7, scale_by_dim=False),
    "linear": bx.Linear(),
    "imq": bx.InverseMultiquadric(),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("measure", ["hsic", "nhsic", "coco", "cka"])
def test_integer_labels_equal_one_hot(kernel: str, measure: str) -> None:
    x, y = features(40, 9), torch.randint(0, 6, (40,))
    one_hot = F.one_hot(y, 6).double()
    function = getattr(bx, measure)
    by_label = function(x, y, kernel_y=KERNELS[kernel], num_classes=6)
    assert relative_error(by_label, function(x, one_hot, kernel_y=KERNELS[kernel])) < 1e-9


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_labels_of_any_integer_dtype(dtype: torch.dtype) -> None:
    x, y = features(20, 4), torch.arange(20) % 3
    assert torch.equal(bx.hsic(x, y.to(dtype)), bx.hsic(x, y))


@pytest.mark.parametrize("kernel", KERNELS)
def test_gram_up_to_centering(kernel: str) -> None:
    x = features(30, 5)
    by_hand = {
        "gaussian": torch.exp(-(torch.cdist(x, x) ** 2) / (8 * 5)),
        "gaussian unscaled": torch.exp(-(torch.cdist(x, x) ** 2) / (2 * 0.49)),
        "linear": x @ x.T,
        "imq": (1 + torch.cdist(x, x) ** 2) ** -0.5,
    }[kernel]
    value = KERNELS[kernel].gram_up_to_centering(x)
    torch.testing.assert_close(bx.double_center(value), reference.double_center(by_hand))


@pytest.mark.parametrize("n", [2, 3, 4, 7, 20])
def test_median_heuristic(n: int) -> None:
    x = features(n, 3)
    distances = torch.pdist(x).square()
    assert float(median_squared_distance(x)) == pytest.approx(float(distances.median()))
    K = bx.gaussian_gram(x, sigma="median")
    torch.testing.assert_close(K, reference.gaussian_gram(x, 0.5 / float(distances.median())))


def test_median_of_coinciding_rows_stays_positive() -> None:
    mostly_equal = torch.zeros(8, 2)
    mostly_equal[0] = 3
    assert float(median_squared_distance(mostly_equal)) == pytest.approx(18 * 14 / 56)
    assert float(median_squared_distance(torch.ones(5, 2))) == 1
    assert torch.equal(bx.gaussian_gram(torch.ones(5, 2), sigma="median"), torch.ones(5, 5))
    assert torch.equal(bx.gaussian_gram(torch.rand(1, 2), sigma="median"), torch.ones(1, 1))

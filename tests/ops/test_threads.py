# SPDX-License-Identifier: Apache-2.0
"""The same bits for any number of threads, where the arithmetic is the package's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from oracle import each_wide_dtype, features, relative_error
from torch import Tensor

import bido_ext as bx


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def value_and_gradients(
    function: Callable[..., Tensor], inputs: list[Tensor], threads: int
) -> list[Tensor]:
    torch.set_num_threads(threads)
    assert torch.get_num_threads() == threads
    leaves = [t.clone().requires_grad_() for t in inputs]
    value = function(*leaves)
    weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(6), dtype=value.dtype)
    (value * weight).sum().backward()
    return [value.detach(), *(t.grad for t in leaves)]


def assert_same_bits(function: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    one = value_and_gradients(function, inputs, 1)
    for threads in (2, 7):  # more than the machine may have: the work is cut differently
        for value, want in zip(value_and_gradients(function, inputs, threads), one, strict=True):
            assert torch.isfinite(want).all()
            assert torch.equal(value, want), (
                f"{threads} threads, relative {relative_error(value, want):.1e}"
            )


@each_wide_dtype
@pytest.mark.parametrize(
    ("n", "workspace"), [(64, None), (300, None), (530, None), (530, 1_000_000)],
    ids=["64", "300", "530 dense", "530 streaming"],
)  # fmt: skip
@pytest.mark.parametrize("kernel", [bx.Gaussian(1.0), bx.Linear(), bx.InverseMultiquadric()], ids=lambda k: type(k).__name__)  # fmt: skip
def test_hsic(dtype: torch.dtype, n: int, workspace: int | None, kernel: bx.Kernel) -> None:
    inputs = [features(n, 1100, dtype), features(n, 53, dtype, seed=1)]
    if isinstance(kernel, bx.InverseMultiquadric):  # near enough for float32
        inputs = [x / 20 for x in inputs]
    if workspace:
        assert bx.plan(n, [1100, 53], dtype, "hsic", workspace).regime == "streaming"
    assert_same_bits(lambda a, b: bx.hsic(a, b, kernel, kernel, workspace_bytes=workspace), inputs)


@each_wide_dtype
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_hsic_with_labels(dtype: torch.dtype, estimator: str) -> None:
    for n in (64, 530):
        y = torch.arange(n) % 7
        assert_same_bits(
            lambda a, y=y: bx.hsic(a, y, estimator=estimator), [features(n, 300, dtype)]
        )


@each_wide_dtype
@pytest.mark.parametrize(
    ("n", "workspace"), [(64, None), (300, None), (530, None), (530, 1_500_000)]
)
@pytest.mark.parametrize("measure", ["hsic", "cka"])
def test_bido_step(dtype: torch.dtype, n: int, workspace: int | None, measure: str) -> None:
    inputs = [features(n, d, dtype, seed=d) for d in (1200, 257, 64, 10)]
    y = torch.arange(n) % 5
    if workspace:
        assert bx.plan(n, [1200, 257, 64, 10, 0], dtype, measure, workspace).regime == "streaming"
    criterion = bx.BiDOLoss(measure, 1.0, 3.0, workspace_bytes=workspace)
    assert_same_bits(lambda x, *z: criterion(x, list(z), y), inputs)


@each_wide_dtype
@pytest.mark.parametrize("shape", [(64, 12288), (300, 700), (1, 5), (700, 33)])
def test_gaussian_gram(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    assert_same_bits(lambda x: bx.gaussian_gram(x, 1.0), [features(*shape, dtype)])


@each_wide_dtype
@pytest.mark.parametrize("n", [64, 300, 600])
def test_nhsic(dtype: torch.dtype, n: int) -> None:
    inputs = [features(n, d, dtype, seed=d) for d in (120, 57, 33)]
    criterion, y = bx.BiDOLoss("nhsic", 1.0, 3.0), torch.arange(n) % 5
    assert_same_bits(lambda x, *z: criterion(x, list(z), y), inputs)


@each_wide_dtype
@pytest.mark.parametrize("n", [64, 300, 600])
def test_coco_with_the_frobenius_norm(dtype: torch.dtype, n: int) -> None:
    inputs = [features(n, d, dtype, seed=d) for d in (120, 57, 33)]
    criterion, y = bx.BiDOLoss("coco", 1.0, 3.0, coco_norm="fro"), torch.arange(n) % 5
    assert_same_bits(lambda x, *z: criterion(x, list(z), y), inputs)


@pytest.mark.parametrize("n", [64, 300])
def test_spectral_coco_stays_close(n: int) -> None:
    """Its n x n algebra is the BLAS's."""
    inputs = [features(n, 300, torch.float32), features(n, 53, torch.float32, seed=1)]
    one, two = (value_and_gradients(bx.coco, inputs, threads) for threads in (1, 2))
    for value, want in zip(two, one, strict=True):
        assert relative_error(value, want) < 1e-6

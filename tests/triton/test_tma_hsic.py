# SPDX-License-Identifier: Apache-2.0
"""hsic of operands that TMA carries, in the interpreter: against float64, and what the form refuses."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from gpu_kernels.conftest import with_bounds_of_a_gpu
from interpreter import skip_where_the_interpreter_is_broken
from oracle import relative_error
from torch import Tensor

from bido_ext import reference
from bido_ext.reference.kernel_entries import (
    GAUSSIAN,
    GRAM,
    INVERSE_MULTIQUADRIC,
    LABELS,
    LAPLACIAN,
    LINEAR,
)
from bido_ext.rows import _tma
from bido_ext.serving.comparison import TOLERANCES
from bido_ext.serving.implementations import functions_of
from bido_ext.serving.row import ROWS, named

pytest.importorskip("triton")
form = importlib.import_module("bido_ext.triton_kernels.hsic_tma")
weighted = importlib.import_module("bido_ext.triton_kernels.tma_weighted_product")
operands = importlib.import_module("bido_ext.triton_kernels.tma_operands")
features = importlib.import_module("bido_ext.triton_kernels.features")
Config = importlib.import_module("bido_ext.triton_kernels.launch").Config

FLOAT32, HALF = TOLERANCES["float32"], TOLERANCES["half"]


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    skip_where_the_interpreter_is_broken()
    with_bounds_of_a_gpu(monkeypatch)
    precision = torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True, warn_only=True)  # what no tile writes is NaN
    yield
    torch.set_float32_matmul_precision(precision)
    torch.use_deterministic_algorithms(deterministic)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class Pair:
    """x beside y: values and the gradient of x, by the form and in float64."""

    def __init__(self, x: Tensor, y: Tensor, kinds: list[int], unbiased: bool = False) -> None:
        n, d = x.shape
        parameter = 1.0 / (4 * d) if kinds[0] == GAUSSIAN else 0.7
        parameters = torch.tensor([[parameter, 1.0], [0.02, 1.0]], dtype=torch.float64)
        self.arguments: tuple[Any, ...] = (kinds, [0], [1], unbiased)
        wide = x.double().requires_grad_()
        stack = reference.gram_stack(
            [wide, y.double() if kinds[1] != LABELS else y], parameters, kinds
        )
        self.wanted = reference.hsic(stack[0], stack[1], unbiased)
        (self.wanted_gradient,) = torch.autograd.grad(self.wanted, wide)
        f = functions_of("hsic", "tma")
        values, sums, kept = f["hsic"]([x, y], parameters, *self.arguments, n, -1)
        # float16 holds no gradient of a single value.
        scale = torch.tensor([1.0 / float(self.wanted_gradient.abs().max().clamp_min(1e-30))])
        (gradient,) = f["hsic_backward"](
            scale.double(), [x, y], parameters, sums, kept, *self.arguments, n, [0]
        )
        self.value, self.gradient = values[0], gradient.double() / scale.double()
        self.dtype = gradient.dtype

    def check(self, values: float, gradients: float) -> None:
        assert relative_error(self.value, self.wanted.detach()) <= values
        assert relative_error(self.gradient, self.wanted_gradient) <= gradients


def labels(n: int) -> Tensor:
    return torch.arange(n) % 3


@pytest.mark.parametrize(("n", "d"), [(2, 1), (17, 33), (40, 16)])
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, FLOAT32), (torch.bfloat16, HALF)])
def test_against_float64(n: int, d: int, dtype: torch.dtype, allowed: tuple[float, float]) -> None:
    """One tile and several, odd rows that are copied for the engine, duplicates."""
    x = normal(n, d, dtype=dtype) + 1
    if n > 2:
        x[n // 2] = x[0]
    pair = Pair(x, labels(n), [GAUSSIAN, LABELS])
    assert pair.dtype == dtype
    pair.check(*allowed)


@pytest.mark.parametrize("kind", [LINEAR, INVERSE_MULTIQUADRIC, LAPLACIAN])
def test_other_kernels(kind: int) -> None:
    """A linear one subtracts nothing; one that is not smooth has the other form's matrix, and this product."""
    Pair(normal(19, 21), labels(19), [kind, LABELS]).check(*FLOAT32)


def test_the_unbiased_estimator_and_two_variables_of_features() -> None:
    y = normal(21, 5, seed=1)
    Pair(normal(21, 18), y, [GAUSSIAN, GAUSSIAN], unbiased=True).check(10 * FLOAT32[0], FLOAT32[1])


@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_a_common_offset_costs_no_digits(offset: float) -> None:
    Pair(normal(24, 20) + offset, labels(24), [GAUSSIAN, LABELS]).check(*FLOAT32)


def test_an_outlier_moves_no_other_sample() -> None:
    x = normal(24, 20)
    x[5, 3] = 1e5
    pair = Pair(x, labels(24), [GAUSSIAN, LABELS])
    others = [i for i in range(24) if i != 5]
    assert relative_error(pair.value, pair.wanted.detach()) <= FLOAT32[0]
    error = relative_error(pair.gradient[others], pair.wanted_gradient[others])
    assert error <= FLOAT32[1]


def test_tf32_where_it_is_allowed() -> None:
    torch.set_float32_matmul_precision("high")
    pair = Pair(normal(33, 40), labels(33), [GAUSSIAN, LABELS])
    pair.check(*TOLERANCES["tf32"])
    assert relative_error(pair.gradient, pair.wanted_gradient) > 1e-6  # TF32 it was


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_features_are_seen(bad: float) -> None:
    x = normal(18, 5)
    x[2, 1] = bad
    parameters = torch.tensor([0.1, 1.0], dtype=torch.float64)
    group, arguments = [x, labels(18)], ([GAUSSIAN, LABELS], [0], [1], False)
    f = functions_of("hsic", "tma")
    values, sums, kept = f["hsic"](group, parameters, *arguments, 18, -1)
    assert values.isnan().all()
    one = torch.ones(1, dtype=torch.float64)
    (gradient,) = f["hsic_backward"](one, group, parameters, sums, kept, *arguments, 18, [0])
    assert gradient.isnan().all()


def test_panels_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several panels, the last one short; the gradient of a Gram matrix is the other form's."""
    calls = []
    product = form.tma_weighted_product
    monkeypatch.setattr(form, "panel_rows", lambda n, entry_bytes: 16)
    monkeypatch.setattr(
        form, "tma_weighted_product", lambda *a: (calls.append(a[-1]), product(*a))[1]
    )
    x, K = normal(40, 9), normal(40, 40, seed=1)
    K = K + K.T
    parameters = torch.tensor([0.05, 1.0], dtype=torch.float64)
    wide, wide_K = x.double().requires_grad_(), K.double().requires_grad_()
    stack = reference.gram_stack([wide, wide_K], parameters, [GAUSSIAN, GRAM])
    wanted = torch.autograd.grad(reference.hsic(stack[0], stack[1]), (wide, wide_K))
    f, arguments = functions_of("hsic", "tma"), ([GAUSSIAN, GRAM], [0], [1], False)
    _, sums, kept = f["hsic"]([x, K], parameters, *arguments, 40, -1)
    one = torch.ones(1, dtype=torch.float64)
    got = f["hsic_backward"](one, [x, K], parameters, sums, kept, *arguments, 40, [1, 0])
    assert calls == [0, 16, 32]
    assert relative_error(got[1], wanted[0]) <= FLOAT32[1]
    assert relative_error(got[0], wanted[1]) <= FLOAT32[1]


def test_streaming_is_the_other_form() -> None:
    x, parameters = normal(20, 6), torch.tensor([0.1, 1.0], dtype=torch.float64)
    arguments = ([GAUSSIAN, LABELS], [0], [1], False)
    one, found = torch.ones(1, dtype=torch.float64), []
    for name in ("tma", "triton"):
        f = functions_of("hsic", name)
        _, sums, kept = f["hsic"]([x, labels(20)], parameters, *arguments, 8, 0)
        found.append(
            f["hsic_backward"](one, [x, labels(20)], parameters, sums, kept, *arguments, 8, [0])[0]
        )
        assert kept.shape == (1, 0, 8, 8)
    assert torch.equal(*found)


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (19, 37), (16, 16)])
def test_features_lie_transposed(n: int, d: int, precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    (f,) = features.features_of([normal(n, d) * 3 + 100], [GAUSSIAN])
    made = operands.transposed_of(f)
    parts = 3 if precision == "highest" else 1
    assert made.shape == (parts * d, n)
    assert made.stride(0) * made.element_size() % 16 == 0
    centered = (f.x - f.center).double()
    allowed = 2.0**-24 if parts == 3 else 2.0**-11
    error = made.double().reshape(parts, d, n).sum(0).T - centered
    assert (error.abs() <= allowed * centered.abs()).all()


def test_one_sample_has_no_gradient() -> None:
    (f,) = features.features_of([normal(1, 3)], [GAUSSIAN])
    out, weights = torch.empty(1, 3), operands.beginning_well(3, 1, torch.bfloat16, f.x.device)
    weights.zero_()
    weighted.tma_weighted_product(
        weights.unflatten(0, (3, 1)), torch.zeros(1), operands.transposed_of(f), f, out, 0
    )
    assert torch.equal(out, torch.zeros(1, 3))


def test_panels_take_no_more_than_those_of_the_other_form() -> None:
    for n in (2048, 2500, 4096, 5000, 8192, 30000):
        for entry_bytes in (4, 6):
            rows = form.panel_rows(n, entry_bytes)
            assert rows % 128 == 0
            assert rows * entry_bytes <= 4096 * 4
            assert -(-n // rows) == -(-n // (4096 * 4 // entry_bytes // 128 * 128))


def refusal(x: Tensor, tile: int, kind: int = GAUSSIAN) -> str | None:
    known = ROWS["hsic"].get("tma")
    assert known is not None
    group = [x, torch.zeros(len(x), dtype=torch.int64)]
    args = (group, torch.ones(2), [kind, LABELS], [0], [1], False, tile, -1)
    return known.refusal(named("hsic", args))


def test_what_is_refused_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    heavy = torch.empty(2048, 1024, device="meta")
    assert refusal(heavy, 2047) == "streaming, in panels of 2047 rows"
    assert refusal(heavy[:2047], 2047) == "2047 samples, at least 2048 wanted"
    assert refusal(heavy[:, :1000], 2048) == "1000 columns, at least 1024 wanted"
    assert refusal(heavy.double(), 2048) == "float64 features"
    assert refusal(heavy, 2048, LAPLACIAN) == "kernels that are neither smooth nor linear"
    assert refusal(heavy, 2048) == "a device without TMA"
    monkeypatch.setattr(_tma, "no_tma", lambda device: "sm_80, which has no TMA")
    assert refusal(heavy, 2048) == "sm_80, which has no TMA"
    monkeypatch.setattr(_tma, "no_tma", lambda device: None)
    assert refusal(heavy, 2048) is None


def test_it_is_said_that_it_never_ran() -> None:
    known = ROWS["hsic"].get("tma")
    assert known is not None
    assert "never run on hardware" in known.what

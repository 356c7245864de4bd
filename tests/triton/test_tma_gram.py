# SPDX-License-Identifier: Apache-2.0
"""Gram matrices of operands that TMA carries, in the interpreter: against float64, and what the form refuses."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from interpreter import skip_where_the_interpreter_is_broken
from oracle import relative_error
from torch import Tensor

from bido_ext import reference
from bido_ext.composed import _split_products
from bido_ext.reference.kernel_entries import (
    ENERGY,
    GAUSSIAN,
    GRAM,
    INVERSE_MULTIQUADRIC,
    LABELS,
    LAPLACIAN,
    LINEAR,
    RATIONAL_QUADRATIC,
    entry_of_distance,
)
from bido_ext.rows import _tma
from bido_ext.serving.check import self_check
from bido_ext.serving.implementations import functions_of
from bido_ext.serving.row import ROWS, named

triton = pytest.importorskip("triton")
tl = importlib.import_module("triton.language")
product = importlib.import_module("bido_ext.triton_kernels.tma_gram")
operands = importlib.import_module("bido_ext.triton_kernels.tma_operands")
Config = importlib.import_module("bido_ext.triton_kernels.launch").Config

#: Relative errors allowed. Half-precision features are exact in the products.
ALLOWED = {torch.float32: 2e-6, torch.bfloat16: 1e-5, torch.float16: 1e-5}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _bounds_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    skip_where_the_interpreter_is_broken()
    entry = importlib.import_module("bido_ext.triton_kernels.entry")
    resolution = importlib.import_module("bido_ext.triton_kernels.resolution")
    for name, bound in resolution.ON_GPU.items():
        monkeypatch.setattr(resolution, name, tl.constexpr(bound))
        if hasattr(entry, name):
            monkeypatch.setattr(entry, name, tl.constexpr(bound))
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    before = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # what no tile writes is NaN
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.use_deterministic_algorithms(before[1])


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def gram(x: Tensor, gamma: float, minus_one: bool = True) -> Tensor:
    function = functions_of("gaussian_gram", "tma")["gaussian_gram"]
    return function(x, torch.tensor(gamma, dtype=torch.float64), minus_one)


@pytest.mark.parametrize("dtype", ALLOWED)
# One tile, several, and tiles beside those on the diagonal.
@pytest.mark.parametrize(("n", "d"), [(1, 1), (2, 3), (17, 33), (33, 64), (71, 7)])
@pytest.mark.parametrize("minus_one", [True, False])
def test_against_float64(dtype: torch.dtype, n: int, d: int, minus_one: bool) -> None:
    x = normal(n, d, dtype=dtype) + 1
    if n > 2:
        x[n // 2] = x[0]
    got = gram(x, 0.02 / d, minus_one)
    gamma = torch.tensor(0.02 / d, dtype=torch.float64)
    assert relative_error(got, reference.gaussian_gram(x.double(), gamma, minus_one)) <= (
        ALLOWED[dtype] if n > 1 else 0.0
    )
    assert torch.equal(got, got.T)
    assert torch.equal(got.diagonal(), torch.full((n,), 0.0 if minus_one else 1.0))


@pytest.mark.parametrize(
    "config",
    [pytest.param(Config(16, 16, 32, 1, 1), marks=pytest.mark.slow), Config(16, 32, 16, 1, 1)],
)
# Each makes whole tiles only; whole ones, then a last one together; none whole.
@pytest.mark.parametrize("programs", [1, 5, 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_more_columns_than_one_sum_takes(
    config: Any, programs: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partial sums lie in memory; small terms go into the first."""
    monkeypatch.setattr(product, "CHUNK", 64)
    monkeypatch.setattr(product, "INTERPRETER_CONFIG", config)
    monkeypatch.setattr(product, "multiprocessors", lambda x: programs)
    for d in (64, 200):
        x = normal(40, d, dtype=dtype)
        gamma = torch.tensor(0.02 / d, dtype=torch.float64)
        assert (
            relative_error(gram(x, float(gamma)), reference.gaussian_gram(x.double(), gamma, True))
            <= ALLOWED[dtype]
        )


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (GAUSSIAN, (1 / 80, 1.0)), (INVERSE_MULTIQUADRIC, (1.0, 1.0)), (LAPLACIAN, (0.2, 1.0)),
        (ENERGY, (1.0, 1.0)), (RATIONAL_QUADRATIC, (1 / 40, 0.7)),
    ],
)  # fmt: skip
def test_every_kernel_at_every_offset(
    kind: int, parameters: tuple[float, float], offset: float
) -> None:
    """Those that are not smooth are made by the other kernel."""
    x, p = normal(50, 40) + offset, torch.tensor([parameters], dtype=torch.float64)
    wide = x.double()
    E = entry_of_distance((wide[:, None] - wide[None]).square().sum(-1), p[0], kind)
    (got,) = functions_of("gram_stack", "tma")["gram_stack"]([x], p, [kind])
    assert relative_error(got, E) < 2e-6
    assert torch.equal(got, got.T)


def test_a_group_of_all_kinds() -> None:
    group = [
        normal(40, 30), normal(40, 61)[:, ::2], normal(40, 7, dtype=torch.bfloat16),
        torch.arange(40) % 3, normal(40, 40),
    ]  # fmt: skip
    kinds = [GAUSSIAN, LINEAR, GAUSSIAN, LABELS, GRAM]
    p = torch.tensor([0.01, 1.0, 0.02, 0.5, 1.0], dtype=torch.float64)
    got = functions_of("gram_stack", "tma")["gram_stack"](group, p, kinds)
    wanted = reference.gram_stack(
        [v.double() if v.is_floating_point() else v for v in group], p, kinds
    )
    for i, kind in enumerate(kinds):
        K, wanted_K = got[i], wanted[i]
        if kind == LINEAR:  # features are centered
            K, wanted_K = (reference.double_center(M.double()) for M in (K, wanted_K))
        assert relative_error(K, wanted_K) < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bad_features_are_seen(dtype: torch.dtype) -> None:
    for bad in (float("nan"), float("inf")):
        x = normal(20, 5, dtype=dtype)
        x[2, 1] = bad
        assert gram(x, 0.1).isnan().any()


@pytest.mark.parametrize("op", ["gaussian_gram", "gram_stack"])
def test_forward_and_backward_pass_the_check_in_tf32(op: str) -> None:
    torch.set_float32_matmul_precision("high")
    shapes = ((5, 3), (67, 40))
    error = self_check(op, functions_of(op, "tma"), torch.float32, CPU, tf32=True, shapes=shapes)
    assert 1e-5 < error < 5e-3  # TF32 it was


def test_parts_hold_all_bits_of_float32() -> None:
    features = importlib.import_module("bido_ext.triton_kernels.features")
    x = normal(19, 37) * 3 + 100
    (f,) = features.features_of([x], [GAUSSIAN])
    made = operands.operands_of(f, torch.empty(19))
    assert made.rows.stride(0) * made.rows.element_size() % 16 == 0
    parts = made.rows.double().reshape(3, 19, 37)
    centered = (x - f.center).double()
    assert ((parts.sum(0) - centered).abs() <= 2.0**-24 * centered.abs()).all()
    assert relative_error(made.norms, centered.square().sum(1)) < 1e-6
    assert operands.TERMS == _split_products.TERMS


def test_half_precision_is_not_copied_where_it_lies_well() -> None:
    features = importlib.import_module("bido_ext.triton_kernels.features")
    for d, copied in ((40, False), (37, True)):
        (f,) = features.features_of([normal(19, d, dtype=torch.float16)], [GAUSSIAN])
        made = operands.operands_of(f, torch.empty(19))
        assert (made.rows.data_ptr() != f.x.data_ptr()) == copied
        assert torch.equal(made.rows, f.x)


@triton.jit
def _tiles_kernel(out, first, REACH: tl.constexpr):
    t = first + tl.program_id(0)
    row, column = product.tile_at(t, REACH)
    tl.store(out + 2 * tl.program_id(0), row)
    tl.store(out + 2 * tl.program_id(0) + 1, column)


@pytest.mark.parametrize("reach", [1, 2])
def test_every_tile_is_visited_once(reach: int) -> None:
    for n in (1, 128, 129, 256, 257, 2000, 4096):
        config = Config(128, 128 * reach, 32, 8, 4)
        count = product.tiles_of(n, config)
        found = torch.empty(count, 2, dtype=torch.int32)
        _tiles_kernel[(count,)](found, 0, REACH=reach)
        rows, columns = -(-n // config.m), -(-n // config.n)
        wanted = {
            (r, c) for r in range(rows) for c in range(columns) if (c + 1) * config.n > r * config.m
        }
        assert len(wanted) == count
        assert set(map(tuple, found.tolist())) == wanted


@pytest.mark.parametrize("column", [4095, 32767])
def test_the_root_of_a_large_tile_is_mended(column: int) -> None:
    """float32 does not hold 8 t + 1 there."""
    first = column * (column + 1) // 2
    found = torch.empty(4, 2, dtype=torch.int32)
    _tiles_kernel[(4,)](found, first - 2, REACH=1)
    assert found.tolist() == [
        [column - 2, column - 1], [column - 1, column - 1], [0, column], [1, column],
    ]  # fmt: skip


def test_the_last_round_is_shared_where_programs_would_wait() -> None:
    assert product.shares(132, 132, 64) == (132, 0, 1)
    assert product.shares(272, 132, 64) == (264, 8, 16)
    assert product.shares(272, 132, 4) == (264, 8, 4)  # no more programs than steps
    assert product.shares(20, 132, 64) == (0, 20, 6)
    assert product.shares(110, 132, 64) == (110, 0, 1)  # two halves would take as long as one whole


def refusal(x: Tensor, kind: int = GAUSSIAN) -> str | None:
    form = ROWS["gram_stack"].get("tma")
    assert form is not None
    return form.refusal(named("gram_stack", ([x], torch.ones(1), [kind])))


def test_what_is_refused_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    heavy = torch.empty(2048, 1024, device="meta")
    assert refusal(heavy[:2047]) == "2047 samples, at least 2048 wanted"
    assert refusal(heavy[:, :1000]) == "1000 columns, at least 1024 wanted"
    assert refusal(heavy.double()) == "float64 features"
    assert refusal(heavy, LAPLACIAN) == "kernels that are neither smooth nor linear"
    assert refusal(heavy) == "a device without TMA"
    monkeypatch.setattr(_tma, "no_tma", lambda device: None)
    assert refusal(heavy) is None


@pytest.mark.parametrize(
    ("capability", "there"), [((8, 0), False), ((9, 0), True), ((10, 0), True), ((12, 0), False)]
)
def test_cards_without_the_engine_never_see_it(
    capability: tuple[int, int], there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tma.no_tma.cache_clear()
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert (_tma.no_tma(torch.device("cuda", 0)) is None) == there
    _tma.no_tma.cache_clear()


def test_it_is_said_that_it_never_ran() -> None:
    for op in ("gaussian_gram", "gram_stack"):
        form = ROWS[op].get("tma")
        assert form is not None
        assert "never run on hardware" in form.what

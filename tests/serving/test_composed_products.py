# SPDX-License-Identifier: Apache-2.0
"""PyTorch's products in their forms: split operands, one pass after a product, and no more memory than planned."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from interpreter import skip_where_the_interpreter_is_broken
from serving.conftest import CPU
from torch import Tensor

from bido_ext.composed import _fused
from bido_ext.composed._split_products import TERMS, parts, split_product
from bido_ext.reference.kernel_entries import (
    ENERGY,
    GAUSSIAN,
    INVERSE_MULTIQUADRIC,
    LABELS,
    LAPLACIAN,
    LINEAR,
    NOT_SMOOTH,
    RATIONAL_QUADRATIC,
)
from bido_ext.serving.check import self_check
from bido_ext.serving.implementations import functions_of
from bido_ext.serving.row import ROWS, named

KINDS = [GAUSSIAN, INVERSE_MULTIQUADRIC, LAPLACIAN, ENERGY, RATIONAL_QUADRATIC]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_three_parts_hold_a_float32(scale: float) -> None:
    x = scale * normal(40, 50)
    split = parts(x)
    assert [p.dtype for p in split] == [torch.bfloat16] * 3
    whole = sum(p.double() for p in split)
    assert float(((whole - x.double()) / x.double()).abs().max()) <= 2.0**-24


def test_a_split_product_is_as_good_as_a_float32_one() -> None:
    for n, k in ((64, 2100), (130, 64)):
        A, B = normal(n, k), normal(k, n, seed=1)
        truth = A.double() @ B.double()
        scale = A.double().abs() @ B.double().abs()
        plain, split = (
            ((P.double() - truth) / scale).abs().max() for P in (A @ B, split_product(A, B))
        )
        assert float(split) < 2 * float(plain) + 2.0**-24
    # One term less is seen: none of the six is idle.
    A, B = normal(8, 8), normal(8, 8, seed=1)
    left, right = parts(A), parts(B)
    for term in TERMS:
        rest = [left[i].double() @ right[j].double() for i, j in TERMS if (i, j) != term]
        off = (sum(rest) - A.double() @ B.double()).norm() / (A.double() @ B.double()).norm()
        assert float(off) > 1e-6
    wide = A.double()
    assert torch.equal(split_product(wide, wide), wide @ wide)


def test_what_is_not_finite_is_nan_in_a_split_product() -> None:
    for bad in (float("nan"), float("inf")):
        A = normal(4, 4)
        A[1, 2] = bad
        assert split_product(A, normal(4, 4)).isnan().any(1).tolist() == [False, True, False, False]


@pytest.mark.parametrize("op", [op for op, row in ROWS.items() if row.get("split")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ops_with_split_products_pass(op: str, dtype: torch.dtype) -> None:
    assert (
        self_check(op, functions_of(op, "split"), dtype, CPU, shapes=((67, 130), (32, 2100))) < 0.1
    )


def step(
    kinds: list[int], parameters: Tensor, x: list[Tensor], tile: int, form: str = "composed"
) -> tuple[Tensor, list[Tensor]]:
    """hsic of the first variable with the second and with the last."""
    functions, n = functions_of("hsic", form), x[0].shape[0]
    args = (x, parameters, kinds, [0, 0], [1, len(x) - 1], False, tile, -1 if tile >= n else 0)
    result = functions["hsic"](*args)
    row = ROWS["hsic"]
    assert row.backward_of is not None
    backward = row.backward_of(named("hsic", args), result)
    return result[0], functions["hsic_backward"](torch.ones(2, dtype=torch.float64), *backward[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_is_what_several_are(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Triton's interpreter: entries and weights, whole and in panels, one and two parameters."""
    skip_where_the_interpreter_is_broken()
    kernels = importlib.import_module("bido_ext.triton_kernels.product_epilogue")
    calls: list[str] = []
    for name in ("entries_of_products", "weights_of_entries"):
        found = getattr(kernels, name)
        monkeypatch.setattr(
            kernels,
            name,
            lambda *args, name=name, found=found: (calls.append(name), found(*args))[1],
        )
    x = [normal(37, 9), normal(37, 4, seed=1), torch.arange(37) % 3]
    x[0][5] = x[0][6]  # a distance of 0 beside the diagonal
    parameters = torch.tensor([[0.01, 1.5], [0.02, 0.7], [1.0, 1.0]], dtype=torch.float64)
    if kind != RATIONAL_QUADRATIC:
        parameters = parameters[:, 0].contiguous()
    if kind == ENERGY:
        parameters = torch.tensor([1.0, 1.5, 1.0], dtype=torch.float64)
    for tile in (37, 20):
        wanted = step([kind, kind, LABELS], parameters, x, tile)
        assert not calls
        monkeypatch.setattr(_fused, "IN_THE_INTERPRETER", True)
        got = step([kind, kind, LABELS], parameters, x, tile)
        # Entries of kernels that are not smooth come from differences.
        of_products = set() if kind in NOT_SMOOTH else {"entries_of_products"}
        assert set(calls) == {"weights_of_entries"} | of_products
        monkeypatch.setattr(_fused, "IN_THE_INTERPRETER", False)
        calls.clear()
        assert torch.allclose(got[0], wanted[0], rtol=1e-5)
        for a, b in zip(got[1], wanted[1], strict=True):
            assert float((a - b).norm()) <= 1e-5 * float(b.norm())
    wide = [x[0].double(), x[1].double(), x[2]]
    monkeypatch.setattr(_fused, "IN_THE_INTERPRETER", True)
    step([kind, kind, LABELS], parameters, wide, 37)
    assert not calls  # float64 is not theirs


def test_one_pass_lets_nan_through(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_where_the_interpreter_is_broken()
    monkeypatch.setattr(_fused, "IN_THE_INTERPRETER", True)
    x = normal(20, 4)
    x[3, 1] = float("nan")
    gram = functions_of("gaussian_gram", "composed")["gaussian_gram"]
    K = gram(x, torch.tensor(0.1, dtype=torch.float64), True)
    assert bool(K[3].isnan().all())
    good = functions_of("gaussian_gram", "composed")["gaussian_gram"](
        normal(20, 4), torch.tensor(0.1, dtype=torch.float64), True
    )
    assert bool((good.diagonal() == 0).all())


def peak_of(function: Any) -> int:
    """Bytes that a call takes beyond what it was given, its result included, by PyTorch's own account."""
    profiler = torch.profiler
    with profiler.profile(
        activities=[profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        result = function()
    del result
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert events
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("form", ["composed", "split"])
@pytest.mark.parametrize("dims", [[64, 64], [600, 300], [16, 16, 16, 16]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_streaming_keeps_to_what_was_planned(
    form: str, dims: list[int], dtype: torch.dtype
) -> None:
    n, workspace = 500, 2_500_000
    planner = importlib.import_module("bido_ext._C")
    found = planner.plan_panels(n, [*dims, 0], 4, workspace)
    assert found["regime"] == "streaming"
    tile, granted = found["tile"], found["bytes"]
    x = [normal(n, d, seed=d).to(dtype) for d in dims]
    group = [*x, torch.arange(n) % 3]
    parameters = torch.tensor([*(1 / (50 * d) for d in dims), 1.0], dtype=torch.float64)
    kinds = [GAUSSIAN] * len(dims) + [LABELS]
    step(kinds, parameters, group, tile, form)
    # A gradient is summed in float32 and rounded to the dtype of its features.
    each = 4 + (dtype.itemsize if dtype.itemsize < 4 else 0)
    gradients = sum(n * d * each for d in dims)
    taken = peak_of(lambda: step(kinds, parameters, group, tile, form)) - gradients
    print(f"{taken:,} of {granted:,} bytes")
    assert taken <= granted
    whole = step(kinds, parameters, group, n, form)
    panels = step(kinds, parameters, group, tile, form)
    assert torch.allclose(whole[0], panels[0], rtol=1e-5)
    for a, b in zip(whole[1], panels[1], strict=True):
        close = 2e-2 if dtype == torch.bfloat16 else 1e-4
        assert float((a - b).double().norm()) <= close * float(b.double().norm())


@pytest.mark.parametrize("kind", [GAUSSIAN, LINEAR])
def test_a_far_origin_and_an_outlier_cost_no_digits_in_panels(kind: int) -> None:
    x = [normal(200, 30) + 1e3, normal(200, 20, seed=1), torch.arange(200) % 3]
    x[1][7] += 1e3
    parameters = torch.tensor([1 / 1500, 1 / 1000, 1.0], dtype=torch.float64)
    wide = [v.double() if v.is_floating_point() else v for v in x]
    truth = step([kind, kind, LABELS], parameters, wide, 200)
    got = step([kind, kind, LABELS], parameters, x, 48)
    if bool(got[0].isfinite().all()):
        assert torch.allclose(got[0], truth[0], rtol=1e-4)
        for a, b in zip(got[1], truth[1], strict=True):
            assert float((a - b).norm()) <= 1e-4 * float(b.norm())

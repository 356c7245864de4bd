# SPDX-License-Identifier: Apache-2.0
"""The forms of nhsic and coco made of PyTorch's products: the same numbers, or NaN, and no host that waits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nhsic_in_digits import nhsic_in_50_digits
from torch import Tensor

import bido_ext as bx
from bido_ext.composed import _top_singular, nhsic_refined, nhsic_sweep
from bido_ext.composed.nhsic import inverses
from bido_ext.ops import top_singular
from bido_ext.ops.algebra import center_stack
from bido_ext.reference.kernel_entries import GAUSSIAN, GRAM, INVERSE_MULTIQUADRIC, LABELS, LINEAR
from bido_ext.serving import choose
from bido_ext.serving.implementations import functions_of
from bido_ext.serving.row import ROWS, named

EXACT = [("nhsic", "composed"), ("nhsic", "sweep"), ("coco", "composed"), ("coco", "squared")]
#: The tile of the sweep is 128: a part of one, some and a rest, whole ones.
SIZES = [2, 40, 256, 300]


def arguments(
    op: str, n: int, kind: int, wanted: list[int], *, norm: str = "spectral",
    dtype: torch.dtype = torch.float64, wide: bool = True, eps: float = 1e-5, scale: float = 1.0,
    width: int = 7,
) -> tuple[Any, ...]:  # fmt: skip
    """Two variables and labels, in four pairs, one of them of a variable with itself."""
    generator = torch.Generator().manual_seed(n)
    x = scale * torch.rand(n, width, generator=generator, dtype=torch.float64)
    z = torch.rand(n, 5, generator=generator, dtype=torch.float64)
    if kind == GRAM:
        x, z = (bx.gaussian_gram(v).sub_(1) for v in (x, z))
    parameters = torch.tensor([0.02, 0.03, 1.0], dtype=torch.float64)
    group = [x.to(dtype), z.to(dtype), torch.arange(n) % 3], parameters, [kind, kind, LABELS]
    last = (eps, wide, wanted) if op == "nhsic" else (norm, wide, wanted)
    return *group, [1, 1, 0, 0], [0, 2, 2, 0], *last


def step(op: str, form: str, args: tuple[Any, ...]) -> tuple[Tensor, list[Tensor]]:
    functions, row = functions_of(op, form), ROWS[op]
    assert row.backward_of is not None
    result = functions[op](*args)
    weights = torch.linspace(-1, 2, len(result[0]), dtype=torch.float64)
    # The backward gets a gradient of its own where its row hands the values on.
    backward = row.backward_of(named(op, args), result)
    return result[0], functions[f"{op}_backward"](weights, *backward[1:])


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm().clamp_min(1e-300))


@pytest.mark.parametrize(("op", "form"), EXACT)
@pytest.mark.parametrize("kind", [GAUSSIAN, LINEAR, INVERSE_MULTIQUADRIC, GRAM])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("wanted", [[], [1], [0, 1]])
def test_every_form_is_the_composition(
    op: str, form: str, kind: int, n: int, wanted: list[int]
) -> None:
    args = arguments(op, n, kind, wanted)
    values, grads = step(op, form, args)
    wanted_values, wanted_grads = step(op, "composition", args)
    assert error(values, wanted_values) < 1e-10
    for got, want in zip(grads, wanted_grads, strict=True):
        assert float((got - want).norm()) <= 1e-10 * (float(want.norm()) + 1e-3)


@pytest.mark.parametrize("kind", [GAUSSIAN, GRAM])
@pytest.mark.parametrize("n", [40, 300])
def test_refinement_keeps_to_its_error(kind: int, n: int) -> None:
    args = arguments("nhsic", n, kind, [0, 1])
    values, grads = step("nhsic", "refined", args)
    wanted_values, wanted_grads = step("nhsic", "composition", args)
    assert error(values, wanted_values) < 1e-10
    assert max(map(error, grads, wanted_grads)) < 1e-9


@pytest.mark.parametrize("form", ["composed", "sweep", "refined"])
def test_algebra_in_float32_is_as_good_as_the_compositions(form: str) -> None:
    settings: dict[str, Any] = {"width": 90, "eps": 1e-3}
    truth = step("nhsic", "composition", arguments("nhsic", 300, GAUSSIAN, [0, 1], **settings))
    narrow = {**settings, "dtype": torch.float32, "wide": False}
    args = arguments("nhsic", 300, GAUSSIAN, [0, 1], **narrow)
    values, grads = step("nhsic", form, args)
    assert values.dtype == torch.float64
    assert error(values, truth[0]) < 1e-5
    assert max(error(g.double(), want) for g, want in zip(grads, truth[1], strict=True)) < 5e-5


def test_refinement_in_float32_gains_a_digit() -> None:
    """Of the inverse, before S is made of it."""
    K = bx.gaussian_gram(torch.rand(2, 300, dtype=torch.float64).T.contiguous()).float()[None]
    ridged = center_stack(K, torch.float32)
    ridged.diagonal(dim1=-2, dim2=-1).add_(1e-5 * 300)
    truth = torch.linalg.inv(ridged.double())
    plain = error(inverses(ridged.clone()).double(), truth)
    assert error(nhsic_sweep.inverses(ridged.clone()).double(), truth) < 3 * plain
    assert error(nhsic_refined.inverses(ridged.clone()).double(), truth) < 0.1 * plain


def test_a_product_of_split_operands_keeps_more_digits_than_float32_has() -> None:
    generator = torch.Generator().manual_seed(0)
    A, B = (torch.randn(2, 200, 200, generator=generator) for _ in range(2))
    A *= torch.logspace(-3, 3, 200)[:, None]  # each row has a scale of its own
    truth = A.double() @ B.double()
    rows = truth.norm(dim=-1)
    plain = ((A @ B).double() - truth).norm(dim=-1) / rows
    split = (nhsic_refined.split_product(A, B) - truth).norm(dim=-1) / rows
    assert float(split.max()) < 0.1 * float(plain.mean())
    leading = nhsic_refined.leading(A, -1)
    step = 2.0 ** (torch.ceil(torch.log2(A.abs().amax(-1, keepdim=True))) - 9)
    assert bool(((leading / step) == (leading / step).round()).all())
    assert bool((nhsic_refined.leading(torch.zeros(1, 3, 3), -1) == 0).all())


@pytest.mark.parametrize("form", [inverses, nhsic_sweep.inverses, nhsic_refined.inverses])
def test_what_is_not_positive_definite_is_nan_and_nothing_else_is(form: Any) -> None:
    good = torch.eye(200, dtype=torch.float64)
    bad = good.clone()
    bad[150, 150] = -1
    lost = good.clone()
    lost[3, 4] = lost[4, 3] = float("nan")
    result = form(torch.stack([good, bad, lost]))
    assert bool(torch.isfinite(result[0]).all())
    assert bool(result[1:].isnan().flatten(1).any(1).all())
    assert not bool(torch.isfinite(result[1]).all())


def test_refinement_says_no_where_it_does_not_converge() -> None:
    """A condition number beyond float32: whatever comes is not the inverse, or the inverse is right."""
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(200, 200, generator=generator, dtype=torch.float64)).Q
    for power, resolved in ((2, True), (4, True), (9, False)):
        A = (Q * torch.logspace(0, -power, 200, dtype=torch.float64)) @ Q.T
        got = nhsic_refined.inverses(((A + A.T) / 2)[None])[0]
        if resolved:
            assert error(got, torch.linalg.inv((A + A.T) / 2)) < 1e-6
        else:
            assert bool(got.isnan().all())


@pytest.mark.parametrize("form", ["composed", "sweep", "refined"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_ridge_below_the_round_off_is_nan(form: str, dtype: torch.dtype) -> None:
    args = arguments("nhsic", 40, GAUSSIAN, [1], eps=1e-18, dtype=dtype)
    values, _ = step("nhsic", form, args)
    assert values.isnan().tolist() == [True] * 4


@pytest.mark.parametrize("form", ["composed", "sweep", "refined"])
def test_bad_features_are_nan(form: str) -> None:
    for kind in (GAUSSIAN, LINEAR):
        for bad in (float("nan"), float("inf")):
            args = arguments("nhsic", 40, kind, [1])
            args[0][0][3, 2] = bad
            values, _ = step("nhsic", form, args)
            assert values.isnan().tolist() == [True, False, True, True]


@pytest.mark.parametrize("n_and_d", [(12, 3), (12, 12), (12, 30)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e7])
def test_linear_factor_against_50_digits(n_and_d: tuple[int, int], scale: float) -> None:
    n, d = n_and_d
    generator = torch.Generator().manual_seed(d)
    x, y = (torch.randn(n, k, generator=generator, dtype=torch.float64) for k in (d, 4))
    x = scale * (x + 1e3)
    args = [x, y], torch.ones(2, dtype=torch.float64), [LINEAR] * 2, [0], [1], 1e-5, True, [0]
    value, gradient, _, size = nhsic_in_50_digits(x, y, bx.Linear(), bx.Linear(), 1e-5)
    functions = functions_of("nhsic", "composed")
    got, *kept = functions["nhsic"](*args)
    one = torch.ones(1, dtype=torch.float64)
    (grad,) = functions["nhsic_backward"](one, *args[:2], *kept, *args[2:6], [0])
    assert float(got) == pytest.approx(value, rel=1e-10)
    assert float((grad - gradient).norm()) < 1e-10 * size


@pytest.mark.parametrize("what", ["one-hot", "equal columns", "constant", "equal rows"])
@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4, 1e6])
def test_linear_features_without_full_rank_are_right_or_nan(what: str, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    n = 14
    x = {
        "one-hot": torch.nn.functional.one_hot(torch.arange(n) % 4).double(),
        "equal columns": torch.randn(n, 1, generator=generator).double().expand(n, 6).clone(),
        "constant": torch.full((n, 5), 1000.0, dtype=torch.float64),
        "equal rows": torch.randn(7, 20, generator=generator).double().repeat(2, 1),
    }[what]
    y = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    args = [scale * x, y], torch.ones(2).double(), [LINEAR] * 2, [0], [1], 1e-5, True, [0]
    values, grads = step("nhsic", "composed", args)
    wanted, wanted_grads = step("nhsic", "composition", args)
    if scale == 1 or what == "constant":
        assert bool(values.isfinite())
    if what == "equal columns" and scale == 1e6:
        assert bool(values.isnan())
    if bool(values.isfinite()):
        assert float((values - wanted).abs()) < 1e-6
        assert error(grads[0], wanted_grads[0]) < 1e-5


@pytest.mark.parametrize("way", ["top_singular_vectors", "squared"])
@pytest.mark.parametrize("rank", [1, 3, 9, 200])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_top_vectors_of_a_batch_are_those_of_each(way: str, rank: int, dtype: torch.dtype) -> None:
    """Of few columns more than the rank: what is nothing new must not spoil the space."""
    generator = torch.Generator().manual_seed(rank)
    n = 200
    factors = [torch.randn(2, n, rank, generator=generator, dtype=torch.float64) for _ in range(2)]
    K, L = (center_stack(f @ f.mT, torch.float64) for f in factors)
    u, v = getattr(_top_singular, way)(K.to(dtype), L.to(dtype))
    close = 1e-10 if dtype == torch.float64 else 1e-5
    for k in range(2):
        s = torch.linalg.matrix_norm(K[k] @ L[k], 2)
        got = (K[k] @ u[k].double()).mT @ (L[k] @ v[k].double())
        assert float(got) == pytest.approx(float(s), rel=close)
        if dtype == torch.float64:
            one, _ = top_singular.decomposed(K[k], L[k])
            assert abs(float(one @ u[k, :, 0])) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("way", ["top_singular_vectors", "squared"])
def test_nothing_has_the_value_0_and_nan_is_seen(way: str) -> None:
    K = torch.zeros(3, 200, 200, dtype=torch.float64)
    K[1] = torch.eye(200)
    K[2, 3, 4] = float("nan")
    u, _ = getattr(_top_singular, way)(K, torch.eye(200, dtype=torch.float64).expand(3, -1, -1))
    assert bool((u[0] == 0).all())
    assert bool(torch.isfinite(u[1]).all())
    assert bool(u[2].isnan().all())


def test_on_a_gpu_the_composition_that_waits_serves_only_where_nothing_else_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables = [torch.empty(300, 5, device="meta") for _ in range(2)]
    args = named("nhsic", (variables, None, [GAUSSIAN] * 2, [0], [1], 1e-5, True, [0]))
    row = ROWS["nhsic"]
    assert list(choose.candidates(row, args)) == ["composed", "sweep"]
    many = [torch.empty(3000, 5, device="meta") for _ in range(2)]
    wide = named("nhsic", (many, None, [GAUSSIAN] * 2, [0], [1], 1e-5, True, [0]))
    assert list(choose.candidates(row, wide)) == ["composed", "sweep", "refined"]
    # A forced backend without a kernel for it does not bring the waiting one back either.
    monkeypatch.setattr(choose.libraries, "FORCED", "triton")
    function = choose.choose("nhsic", args, torch.device("meta"), "triton")
    assert function is functions_of("nhsic", "composed")["nhsic"]
    monkeypatch.setattr(
        choose, "functions_of", lambda op, name: {} if name != "composition" else {"nhsic": len}
    )
    assert list(choose.candidates(row, args)) == ["composition"]


def test_the_question_is_that_of_the_backward_too() -> None:
    """Forward and backward share a verdict; float32 and float64 algebra, and the norms, do not."""
    keys = set()
    for op, more in (
        ("nhsic", {"wide": True}), ("nhsic", {"wide": False, "dtype": torch.float32}),
        ("coco", {"norm": "fro"}), ("coco", {"norm": "spectral"}), ("coco", {"wide": False}),
    ):  # fmt: skip
        args = arguments(op, 40, GAUSSIAN, [1], **more)  # type: ignore[arg-type]
        row = ROWS[op]
        assert row.backward_of is not None
        result = functions_of(op, "composition")[op](*args)
        both = named(op, args), named(f"{op}_backward", row.backward_of(named(op, args), result))
        forward, backward = (
            choose.bucket(op, a, choose.candidates(row, a), torch.device("cpu")) for a in both
        )
        assert forward == backward
        keys.add(forward)
    assert len(keys) == 5

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from oracle import each_wide_dtype, features, gram, relative_error
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import bido_ext as bx
from bido_ext import reference
from bido_ext.ops.group import Pairs, make_group
from bido_ext.ops.nhsic import NhsicMeasure, label_factor
from bido_ext.reference.gram_stack import GAUSSIAN, GRAM, INVERSE_MULTIQUADRIC, LABELS
from bido_ext.reference.nhsic import nhsic_factor
from bido_ext.serving import on_cpu

#: The kernel has one way up to 128 samples and another beyond, in tiles of 60 rows, from 513 on of 120.
EACH_WAY = pytest.mark.parametrize("n", [24, 128, 129, 250, 541])


@pytest.fixture(params=["kernel", "composition"], autouse=True)
def served_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """On the CPU the algebra in float64 has a kernel of its own; the composition has to be as right."""
    if request.param == "composition":
        monkeypatch.setattr(on_cpu, "KERNELS_OF_COMPOSITIONS", False)
    return str(request.param)


def one_sided(K: Tensor, L: Tensor, eps: float = 1e-5) -> Tensor:
    """The published form: R = K H (K H + eps n I)^-1, tr(R_K R_L)."""
    n = K.shape[0]
    eye = torch.eye(n, dtype=K.dtype)
    H = eye - 1 / n

    def ratio(A: Tensor) -> Tensor:
        return A @ H @ torch.linalg.inv(A @ H + eps * n * eye)

    return (ratio(K) * ratio(L).T).sum()


@each_wide_dtype
@pytest.mark.parametrize("n", [2, 3, 64, 65, 128, 129, 257])
def test_forward(dtype: torch.dtype, n: int) -> None:
    x, z = features(n, 40, dtype), features(n, 30, dtype, seed=4)
    truth = reference.nhsic(
        reference.gaussian_gram(x.double(), 1 / (50 * 40)),
        reference.gaussian_gram(z.double(), 1 / (50 * 30)),
    )
    value = bx.nhsic(x, z)
    assert value.dtype == dtype
    assert relative_error(value, truth) < (1e-9 if dtype == torch.float64 else 1e-4)
    assert -1e-6 <= float(value) <= n - 1 + 1e-6


def of_grams(K: Tensor, L: Tensor, eps: float = 1e-5, wide: bool = True) -> Tensor:
    wanted = [i for i, A in enumerate((K, L)) if A.requires_grad]
    arguments = ([K, L], torch.ones(2, dtype=torch.float64), [GRAM, GRAM], [0], [1])
    return torch.ops.bido_ext.nhsic(*arguments, eps, wide, wanted)[0][0]


def test_symmetric_form_equals_the_published_one_sided_form() -> None:
    K, L = gram(20) + 1, gram(20, seed=5) + 1
    assert float(of_grams(K, L)) == pytest.approx(float(one_sided(K, L)), rel=1e-8)


def test_backward() -> None:
    K, L = gram(33).requires_grad_(), gram(33, seed=5).requires_grad_()
    symmetrised = [(A + A.T) / 2 for A in (K, L)]
    truth = torch.autograd.grad(reference.nhsic(*symmetrised), (K, L))
    values = torch.autograd.grad(of_grams(K, L), (K, L))
    for value, want in zip(values, truth, strict=True):
        assert relative_error(value, want) < 1e-7


@pytest.mark.parametrize("n", [30, 300])  # batched and one after the other
@pytest.mark.parametrize("with_gradient", [[0, 1, 2, 3], [1, 2], [0]])
def test_pairs_of_a_group_equal_single_pairs(n: int, with_gradient: list[int]) -> None:
    y = torch.arange(n) % 4
    variables = [features(n, d, seed=d) for d in (40, 9, 5, 3)]
    for i in with_gradient:
        variables[i].requires_grad_()
    kernels = [bx.Gaussian(0.5), bx.Gaussian(0.7), bx.InverseMultiquadric(), bx.Linear(), None]
    pairs = Pairs([1, 2, 3, 0, 2, 1, 1], [0, 0, 0, 4, 4, 4, 1])
    weight = torch.tensor([1.0, -0.5, 2.0, 0.3, -1.0, 0.7, 0.2], dtype=torch.float64)
    group = make_group([*variables, y], kernels)
    values = NhsicMeasure(1e-3).values(group, pairs)
    grads = torch.autograd.grad(values @ weight, [variables[i] for i in with_gradient])
    every = [*variables, y]
    single = torch.stack([
        bx.nhsic(every[a], every[b], kernels[a], kernels[b], eps=1e-3)
        for a, b in zip(*pairs, strict=True)
    ])  # fmt: skip
    assert relative_error(values.detach(), single.detach()) < 1e-10
    expected = torch.autograd.grad(single @ weight, [variables[i] for i in with_gradient])
    for value, want in zip(grads, expected, strict=True):
        assert relative_error(value, want) < 1e-9


@pytest.mark.parametrize("linalg_dtype", [None, torch.float32, torch.float64])
def test_gradient_against_float64(linalg_dtype: torch.dtype | None) -> None:
    x, y = features(96, 700), torch.arange(96) % 7
    truth = x.clone().requires_grad_()
    bx.nhsic(truth, y).backward()
    leaf = x.float().requires_grad_()
    bx.nhsic(leaf, y, linalg_dtype=linalg_dtype).backward()
    tolerance = 2e-3 if linalg_dtype == torch.float32 else 5e-5  # design: 1e-5 .. 9e-4 in float32
    assert relative_error(leaf.grad, truth.grad) < tolerance


@pytest.mark.parametrize(
    "labels",
    [torch.arange(12) % 3, torch.arange(9), torch.zeros(6, dtype=torch.int64),
     torch.tensor([0, 0, 0, 5, 5, 2, 9])],
    ids=["balanced", "all different", "one class", "ragged"],
)  # fmt: skip
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_label_factor_needs_no_factorisation(labels: Tensor, scale: float) -> None:
    n = labels.shape[0]
    L = (labels[:, None] == labels[None]).double() * scale
    expected = nhsic_factor(L, 1e-5)[0]
    value = label_factor(labels, scale, 1e-5 * n, torch.float64)
    parameter = torch.tensor(scale, dtype=torch.float64)  # as the group carries it
    torch.testing.assert_close(label_factor(labels, parameter, 1e-5 * n, torch.float64), value)
    narrow = label_factor(labels, scale, 1e-5 * n, torch.float32)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-9)


def test_bounds_of_the_label_term() -> None:
    labels = torch.arange(16).repeat_interleave(4)
    x = features(64, 100)
    c = 1e-5 * 64
    assert 0 <= float(bx.nhsic(x, labels)) <= 15 * 4 / (4 + c)
    assert float(bx.nhsic(x, torch.zeros(64, dtype=torch.int64))) == pytest.approx(0, abs=1e-9)


def test_permutation_invariance() -> None:
    x, y, order = features(30, 8), torch.arange(30) % 4, torch.randperm(30)
    assert float(bx.nhsic(x[order], y[order])) == pytest.approx(float(bx.nhsic(x, y)), rel=1e-9)
    assert float(bx.nhsic(x[:, torch.randperm(8)], y)) == pytest.approx(
        float(bx.nhsic(x, y)), rel=1e-9
    )


def test_gradcheck() -> None:
    x, z = features(6, 3).requires_grad_(), features(6, 2, seed=1).requires_grad_()
    labels = torch.tensor([0, 1, 0, 2, 2, 1])
    kernel = bx.Gaussian(0.5)
    assert torch.autograd.gradcheck(lambda a, b: bx.nhsic(a, b, kernel, kernel, eps=1e-2), (x, z))
    assert torch.autograd.gradcheck(lambda a: bx.nhsic(a, labels, kernel, eps=1e-2), (x,))


@each_wide_dtype
@pytest.mark.parametrize("wide", [True, False])
def test_opcheck(dtype: torch.dtype, wide: bool) -> None:
    x, y = features(6, 3, dtype).requires_grad_(), features(6, 2, dtype, seed=1)
    parameters = torch.tensor([0.5, 0.8, 1.0, 1.0], dtype=torch.float64)
    kinds = [GAUSSIAN, INVERSE_MULTIQUADRIC, LABELS, GRAM]
    variables, pairs = [x, y, torch.arange(6) % 2, gram(6, dtype)], ([0, 1, 3], [2, 0, 1])
    for wanted in ([0], []):
        first = x if wanted else x.detach()
        head = ([first, *variables[1:]], parameters, kinds, *pairs, 1e-2, wide, wanted)
        torch.library.opcheck(torch.ops.bido_ext.nhsic, head)
    detached = [v.detach() for v in variables]
    for wanted in ([0], [0, 1, 3], [1]):
        kept = torch.ops.bido_ext.nhsic(detached, parameters, kinds, *pairs, 1e-2, wide, wanted)[1:]
        grad = torch.rand(3, dtype=torch.float64)
        arguments = (grad, detached, parameters, *kept, kinds, *pairs, 1e-2, wanted)
        torch.library.opcheck(torch.ops.bido_ext.nhsic_backward, arguments)


def test_compile() -> None:
    x, y = features(10, 4, torch.float32), torch.arange(10) % 3
    compiled = torch.compile(lambda a: bx.nhsic(a, y), fullgraph=True)
    torch.testing.assert_close(compiled(x), bx.nhsic(x, y))


HARD_CASES = {
    "half precision": lambda x: x.to(torch.bfloat16),
    "not contiguous": lambda x: x.repeat(1, 2)[:, ::2],
    "duplicate rows": lambda x: x[torch.arange(len(x)) // 2],
    "equal rows": lambda x: x[:1].expand(len(x), -1),
    "large offset": lambda x: x + 30,
}


@pytest.mark.parametrize("case", HARD_CASES)
@pytest.mark.parametrize("kernel", [bx.Gaussian(0.5), bx.Gaussian(300.0), bx.Linear()])
@pytest.mark.parametrize("n", [37, 187])
def test_hard_features_against_the_reference(case: str, kernel: bx.Kernel, n: int) -> None:
    x = HARD_CASES[case](features(n, 21, torch.float32)).requires_grad_()
    y = torch.arange(n) % 5
    truth = x.detach().double().requires_grad_()
    E, c = reference_gram(truth, kernel), 1e-2
    value = bx.nhsic(x, y, kernel, eps=c)
    want = reference.nhsic(E, (y[:, None] == y[None]).double(), c)
    assert abs(float(value.detach()) - float(want.detach())) < 2e-4 * max(
        float(want.detach()), 1e-3
    )
    (got,) = torch.autograd.grad(value, x)
    (expected,) = torch.autograd.grad(want, truth)
    assert got.dtype == x.dtype
    tolerance = 1e-2 if x.dtype == torch.bfloat16 else 1e-3
    # Equal rows have no gradient: there the round-off counts, amplified by 1 / (eps n).
    bound = tolerance * float(expected.norm()) if case != "equal rows" else 1e-5
    assert float((got.double() - expected).norm()) < bound, float(expected.norm())


def reference_gram(x: Tensor, kernel: bx.Kernel) -> Tensor:
    if isinstance(kernel, bx.Linear):
        return x @ x.T
    assert isinstance(kernel, bx.Gaussian)
    return reference.gaussian_gram(x, 1 / (2 * kernel.sigma**2 * x.shape[1]))  # type: ignore[operator]


@EACH_WAY
def test_what_is_not_positive_definite_becomes_nan(n: int) -> None:
    K = -gram(n).abs() - torch.eye(n, dtype=torch.float64)
    assert torch.isnan(of_grams(K, gram(n, seed=5)))


@EACH_WAY
def test_a_matrix_that_is_not_quite_symmetric(n: int) -> None:
    K = gram(n) + 1
    skewed = K + 1e-4 * torch.rand(n, n, dtype=torch.float64).triu(1)
    want = of_grams((skewed + skewed.T) / 2, gram(n, seed=5), 1e-2)
    assert relative_error(of_grams(skewed, gram(n, seed=5), 1e-2), want) < 1e-2


@EACH_WAY
def test_both_ways_agree_with_two_sets_of_labels(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, z = (features(n, d).requires_grad_() for d in (6, 11))
    coarse, fine = torch.arange(n) % 2, torch.arange(n) % 6
    group = make_group([coarse, x, fine, z], [None, bx.Gaussian(0.6), None, bx.Linear()])
    pairs = Pairs([0, 0, 1, 3, 2], [1, 2, 1, 2, 2])  # labels with labels, a variable with itself
    results = []
    for kernel in (True, False):
        monkeypatch.setattr(on_cpu, "KERNELS_OF_COMPOSITIONS", kernel)
        values = NhsicMeasure(1e-3).values(group, pairs)
        results.append([values.detach(), *torch.autograd.grad(values.sum(), (x, z))])
    for value, want in zip(*results, strict=True):
        assert relative_error(value, want) < 1e-9


@EACH_WAY
@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_error_grows_with_the_condition_number_not_its_square(n: int, scale: float) -> None:
    """Linear kernel, default eps: K has rank 20 and norm n scale^2, c = 1e-5 n; the truth in primal form."""
    x, y = features(n, 20) * scale, torch.arange(n) % 3
    x.requires_grad_()
    value = bx.nhsic(x, y, bx.Linear())
    (got,) = torch.autograd.grad(value, x)
    truth = x.detach().requires_grad_()
    centered, c = truth - truth.mean(0), 1e-5 * n
    inner = centered.T @ centered + c * torch.eye(20, dtype=torch.float64)
    S = centered @ torch.linalg.solve(inner, centered.T)
    want = (S * nhsic_factor((y[:, None] == y[None]).double(), 1e-5)[0]).sum()
    (expected,) = torch.autograd.grad(want, truth)
    condition = float(torch.linalg.matrix_norm(centered.detach(), 2)) ** 2 / c + 1
    assert relative_error(value.detach(), want.detach()) < 2e-15 * condition
    assert relative_error(got, expected) < 2e-14 * condition


ARGUMENTS = {
    "a pair out of range": ({"second": [2]}, "a pair names a variable"),
    "a gradient of labels": ({"wanted": [1]}, "have a gradient"),
    "no such gradient": ({"wanted": [-1]}, "have a gradient"),
    "a gradient twice": ({"wanted": [0, 0]}, "wanted twice"),
    "one kind missing": ({"kinds": [GAUSSIAN]}, "one kind for each"),
    "algebra in float32": ({"wide": False}, "float64"),
}


@pytest.mark.skipif(not hasattr(torch.ops.bido_cpu, "nhsic"), reason="needs the compiled kernels")
@pytest.mark.parametrize("case", ARGUMENTS)
def test_the_kernel_refuses(case: str) -> None:
    changed, said = ARGUMENTS[case]
    given = {
        "kinds": [GAUSSIAN, LABELS],
        "second": [1],
        "wide": True,
        "wanted": [0],
    } | changed
    n = 5

    def call(kinds: list[int], second: list[int], wide: bool, wanted: list[int]) -> Tensor:
        x = torch.rand(n, 3, dtype=torch.float64)
        variables = [x, torch.arange(n) % 2], torch.ones(2, dtype=torch.float64)
        return torch.ops.bido_cpu.nhsic(*variables, kinds, [0], second, 1e-5, wide, wanted)[0]

    with pytest.raises(RuntimeError, match=said):
        call(given["kinds"], given["second"], given["wide"], given["wanted"])
    assert torch.isfinite(call([GAUSSIAN, LABELS], [1], True, [0])).all()


def test_algebra_beyond_1024_samples_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """float64 where it fits, which plan() foresees; float32 where it does not, or where asked for."""
    plans = sys.modules["bido_ext.ops.plan"]
    seen: list[bool] = []
    measure = NhsicMeasure()
    monkeypatch.setattr(plans, "FLOAT64_UP_TO", 20)
    monkeypatch.setattr(sys.modules["bido_ext.ops.measure"], "FLOAT64_UP_TO", 20)
    monkeypatch.setattr(plans, "WHOLE_UP_TO", 20)
    group = make_group([torch.randn(40, 3), torch.randn(40, 2)], [None, None])

    class Watched(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if "nhsic" in str(func):
                seen.append(args[6])
            return func(*args, **(kwargs or {}))

    def wide() -> bool:
        with Watched():
            measure.values(group, Pairs([0], [1]))
        return seen.pop()

    assert wide()
    needed = bx.plan(40, [3, 2], measure="nhsic").workspace_bytes
    monkeypatch.setattr(plans, "free_memory", lambda device: needed * 65 // 100)
    assert not wide()
    assert bx.plan(40, [3, 2], measure="nhsic").workspace_bytes < needed
    monkeypatch.undo()
    measure = NhsicMeasure(linalg_dtype=torch.float32)
    assert not wide()


@pytest.mark.parametrize("scale", [1e-200, 1e-160])
def test_linear_of_next_to_nothing_is_nothing(scale: float) -> None:
    """It was refused with the advice to scale the features down."""
    x, y = features(20, 3) * scale, features(20, 2, seed=1)
    leaf = x.requires_grad_()
    value = bx.nhsic(leaf, y, bx.Linear(), bx.Linear())
    (grad,) = torch.autograd.grad(value, leaf)
    assert 0 <= float(value) < 1e-300
    assert bool(grad.isfinite().all())

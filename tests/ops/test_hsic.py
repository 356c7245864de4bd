# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from oracle import FLOORS, each_dtype, each_wide_dtype, features, gram, readable, relative_error
from torch import Tensor

import bido_ext as bx
from bido_ext import reference
from bido_ext.ops.hsic import _default, _default_backward
from bido_ext.reference.gram_stack import GAUSSIAN, GRAM, INVERSE_MULTIQUADRIC, LABELS, LINEAR

Implementation = tuple[Callable[..., Any], Callable[..., Any]]
IMPLEMENTATIONS: dict[str, Implementation] = {
    "native": (torch.ops.bido_ext.hsic, torch.ops.bido_ext.hsic_backward),
    "reference": (_default, _default_backward),
}
each_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
each_estimator = pytest.mark.parametrize("unbiased", [False, True], ids=["biased", "unbiased"])
KERNELS = [bx.Gaussian(2.0), bx.Linear(), bx.InverseMultiquadric()]

#: By n, what the variables of the group are: kind and width.
GROUPS: dict[int, list[tuple[int, int]]] = {
    2: [(GAUSSIAN, 1), (LINEAR, 3)],
    3: [(GAUSSIAN, 1030), (INVERSE_MULTIQUADRIC, 2), (LABELS, 0)],
    5: [(LINEAR, 7), (GRAM, 0), (GAUSSIAN, 2)],
    63: [(GAUSSIAN, 37), (LINEAR, 5), (INVERSE_MULTIQUADRIC, 3), (LABELS, 0)],
    130: [(GRAM, 0), (GAUSSIAN, 1100), (LABELS, 0), (LINEAR, 5)],
    400: [(GAUSSIAN, 8), (GRAM, 0), (INVERSE_MULTIQUADRIC, 4)],
    600: [(GAUSSIAN, 12), (LINEAR, 33), (LABELS, 0), (INVERSE_MULTIQUADRIC, 6)],
}
#: Tiles of one row of a large matrix would only test patience.
TILES = [(n, tile) for n in GROUPS for tile in (1, 32, 50, 128, 4096) if tile > 1 or n <= 130]


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def make_variable(kind: int, n: int, d: int, dtype: torch.dtype, seed: int) -> Tensor:
    if kind == LABELS:
        return (torch.arange(n) * 7 + seed) % 5
    if kind == GRAM:
        return gram(n, torch.float64 if dtype == torch.float64 else torch.float32, seed=seed)
    return features(n, d, dtype, seed=seed)


def group_of(n: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor, list[int]]:
    """Variables, parameters and kinds of GROUPS[n]."""
    parameter = {GAUSSIAN: lambda d: 0.3 / d, LABELS: lambda d: 0.7}
    variables = [make_variable(kind, n, d, dtype, seed) for seed, (kind, d) in enumerate(GROUPS[n])]
    parameters = [parameter.get(kind, lambda d: 1.0)(d) for kind, d in GROUPS[n]]
    return variables, torch.tensor(parameters, dtype=torch.float64), [k for k, _ in GROUPS[n]]


def all_pairs(count: int) -> tuple[list[int], list[int]]:
    """Every pair, in either order, and every variable with itself."""
    pairs = [(a, b) if (a + b) % 2 else (b, a) for a in range(count) for b in range(a, count)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def weights(count: int, n: int) -> Tensor:
    """Gradients of the values, of both signs, large enough for float16."""
    return 1e3 * n * torch.tensor([1.0, -0.3, 0.7, 0.4, -0.2] * 2, dtype=torch.float64)[:count]


@cache
def textbook(n: int, dtype: torch.dtype, unbiased: bool) -> dict[str, Any]:
    """float64 values, row sums and gradients of the group, from the rounded inputs."""
    variables, parameters, kinds = group_of(n, dtype)
    leaves = [
        v if k == LABELS else v.double().requires_grad_()
        for v, k in zip(variables, kinds, strict=True)
    ]
    grams = reference.gram_stack(leaves, parameters, kinds)
    grams = [K.double() for K in grams]
    first, second = all_pairs(len(kinds))
    values = torch.stack(
        [reference.hsic(grams[a], grams[b], unbiased) for a, b in zip(first, second, strict=True)]
    )
    biased = torch.stack(
        [reference.hsic(grams[a], grams[b]) for a, b in zip(first, second, strict=True)]
    )
    wanted = [i for i, k in enumerate(kinds) if k != LABELS]
    grads = torch.autograd.grad(values, [leaves[i] for i in wanted], weights(len(first), n))
    off = [K - torch.diag(K.diagonal()) if unbiased else K for K in grams]
    return {
        "values": values.detach(),
        "biased": biased.detach(),
        "sums": torch.stack([K.sum(1) for K in off]).detach(),
        "sizes": torch.stack([K.abs().sum(1).max() for K in off]).detach(),
        "wanted": wanted,
        "grads": grads,
    }


def assert_group_is_right(
    implementation: str, dtype: torch.dtype, n: int, unbiased: bool, tile: int, keep: int
) -> None:
    variables, parameters, kinds = group_of(n, dtype)
    pairs = all_pairs(len(kinds))
    forward, backward = IMPLEMENTATIONS[implementation]
    truth = textbook(n, dtype, unbiased)
    values, sums, tiles = forward(variables, parameters, kinds, *pairs, unbiased, tile, keep)
    double = dtype == torch.float64

    assert values.dtype == sums.dtype == torch.float64
    # The unbiased estimator of independent variables is around zero: its scale is the biased one.
    scale = torch.maximum(truth["values"].abs(), truth["biased"].abs())
    error = (values - truth["values"]).abs() / scale
    assert float(error.max()) < (1e-9 if double else 3e-6), error
    error = (sums - truth["sums"]).abs() / truth["sizes"][:, None]
    assert float(error.max()) < (1e-11 if double else 3e-6), error.amax(1)

    grad = weights(len(values), n)
    grads = backward(
        grad, variables, parameters, sums, tiles, kinds, *pairs, unbiased, tile, truth["wanted"]
    )
    for i, value, want in zip(truth["wanted"], grads, truth["grads"], strict=True):
        assert value.dtype == variables[i].dtype
        assert value.shape == variables[i].shape
        if kinds[i] == GRAM:  # only the symmetric part means something
            value, want = value.double() + value.double().T, want + want.T
        assert relative_error(value, want) < 1e-9 + 10 * FLOORS[dtype], kinds[i]


@each_dtype
@pytest.mark.parametrize(("n", "tile"), TILES)
@each_estimator
@pytest.mark.parametrize("keep", [0, 2, -1], ids=["recompute", "keep two", "keep"])
def test_native(dtype: torch.dtype, n: int, tile: int, unbiased: bool, keep: int) -> None:
    if unbiased and n < 4:
        pytest.skip("the unbiased estimator needs n >= 4")
    assert_group_is_right("native", dtype, n, unbiased, tile, keep)


@each_dtype
@pytest.mark.parametrize("n", GROUPS)
@each_estimator
def test_reference(dtype: torch.dtype, n: int, unbiased: bool) -> None:
    if unbiased and n < 4:
        pytest.skip("the unbiased estimator needs n >= 4")
    assert_group_is_right("reference", dtype, n, unbiased, 32, -1)


@each_implementation
def test_gradient_of_some_variables_only(implementation: str) -> None:
    forward, backward = IMPLEMENTATIONS[implementation]
    variables, parameters, kinds = group_of(63, torch.float64)
    first, second = all_pairs(4)
    grad = weights(len(first), 63)
    for tile, keep in ((20, -1), (20, 0), (20, 3), (512, -1)):
        head = (variables, parameters)
        _, *kept = forward(*head, kinds, first, second, False, tile, keep)
        tail = (kinds, first, second, False, tile)
        every = backward(grad, *head, *kept, *tail, [0, 1, 2])
        for wanted in ([0], [2], [1, 2], [2, 0]):
            some = backward(grad, *head, *kept, *tail, wanted)
            for i, value in zip(wanted, some, strict=True):
                assert relative_error(value, every[i]) < 1e-12


@each_implementation
def test_a_variable_without_a_pair_has_gradient_zero(implementation: str) -> None:
    forward, backward = IMPLEMENTATIONS[implementation]
    x, z, u = features(70, 5), features(70, 4, seed=1), features(70, 3, seed=2)
    parameters, kinds = torch.ones(3, dtype=torch.float64), [GAUSSIAN, LINEAR, GAUSSIAN]
    for tile, keep in ((32, -1), (32, 0), (32, 1), (512, -1)):
        _, *kept = forward([x, z, u], parameters, kinds, [0], [1], False, tile, keep)
        grads = backward(
            number(1.0)[None], [x, z, u], parameters, *kept, kinds, [0], [1], False, tile, [1, 2]
        )
        assert float(grads[0].abs().max()) > 0
        assert torch.equal(grads[1], torch.zeros_like(u))


def of_grams(K: Tensor, L: Tensor, unbiased: bool = False) -> Tensor:
    ones = torch.ones(2, dtype=torch.float64)
    arguments = ([K, L], ones, [GRAM, GRAM], [0], [1], unbiased, 512, -1)
    return torch.ops.bido_ext.hsic(*arguments)[0][0]


def unbiased_by_pairs(K: Tensor, L: Tensor) -> float:
    """The estimator as U-centered matrices (Szekely and Rizzo 2014): another road to Song's form."""
    n = K.shape[0]

    def u_center(A: Tensor) -> Tensor:
        A = A - torch.diag(A.diagonal())
        rows = A.sum(1)
        A = A - rows[:, None] / (n - 2) - rows[None] / (n - 2) + A.sum() / ((n - 1) * (n - 2))
        return A - torch.diag(A.diagonal())

    return float((u_center(K) * u_center(L)).sum() / (n * (n - 3)))


def test_unbiased_agrees_with_u_centering() -> None:
    K, L = gram(23), gram(23, seed=5)
    assert float(of_grams(K, L, True)) == pytest.approx(unbiased_by_pairs(K, L), rel=1e-10)


def test_non_contiguous_gram_matrices() -> None:
    K, L = gram(30, torch.float32), gram(30, torch.float32, seed=5)
    strided = torch.stack([K, L], dim=2)
    assert torch.equal(of_grams(strided[..., 0], strided[..., 1]), of_grams(K, L))


@each_implementation
def test_strided_rows_and_bad_features(implementation: str) -> None:
    forward, backward = IMPLEMENTATIONS[implementation]
    base = features(80, 60, torch.float32)
    parameters = torch.tensor([0.3 / 20, 0.2 / 15, 1.0], dtype=torch.float64)
    tail = ([GAUSSIAN, GAUSSIAN, LABELS], [0, 0, 1], [1, 2, 2], False, 16)
    labels = (torch.arange(80) % 3)[::2]
    strided = [base[::2, 10:30], base[::2, ::4], labels]
    dense = [v.contiguous() for v in strided]
    one = torch.ones(3, dtype=torch.float64)
    for keep in (0, 1, -1):
        values, *kept = forward(strided, parameters, *tail, keep)
        expected, *expected_kept = forward(dense, parameters, *tail, keep)
        torch.testing.assert_close(values, expected, rtol=1e-6, atol=0)
        grads = backward(one, strided, parameters, *kept, *tail, [0, 1])
        wanted = backward(one, dense, parameters, *expected_kept, *tail, [0, 1])
        for value, want in zip(grads, wanted, strict=True):
            assert relative_error(value, want) < 1e-6
        for bad in (float("nan"), float("inf")):
            x = strided[0].clone()
            x[33, 3] = bad
            values = forward([x, *strided[1:]], parameters, *tail, keep)[0]
            assert torch.isnan(values[:2]).all()
            assert torch.isfinite(values[2])


@pytest.mark.parametrize("measure", ["hsic", "unbiased hsic", "cka"])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
@pytest.mark.parametrize("target", ["features", "labels"])
@pytest.mark.parametrize("n", [400, 600])
@each_wide_dtype
def test_streaming_equals_dense(
    measure: str, kernel: bx.Kernel, target: str, n: int, dtype: torch.dtype
) -> None:
    x = features(n, 90, dtype)
    # A target that depends on x: the unbiased value of independent variables is all round-off.
    y = x[:, :7] + 0.1 * features(n, 7, dtype, seed=3)
    if target == "labels":
        y = (x.mean(1) * 10).long()
    name = measure.split()[-1]
    options = {"estimator": "unbiased"} if measure.startswith("unbiased") else {}
    small = 600_000 if dtype == torch.float64 else 300_000
    dims = [90, 7 if target == "features" else 0]
    assert bx.plan(n, dims, dtype, name, small).regime == "streaming"
    assert bx.plan(n, dims, dtype, name, 1 << 30).regime == "dense"
    results = []
    for workspace in (None, small, 1 << 30):
        leaf = x.clone().requires_grad_()
        value = getattr(bx, name)(
            leaf, y, kernel, kernel, num_classes=12, workspace_bytes=workspace, **options
        )
        value.backward()
        results.append((value.detach(), leaf.grad))
    (whole, whole_grad), *others = results
    for value, grad in others:
        assert relative_error(value, whole) < (1e-10 if dtype == torch.float64 else 1e-6)
        assert relative_error(grad, whole_grad) < (1e-10 if dtype == torch.float64 else 1e-5)


def test_gradient_of_the_second_variable_and_mixed_dtypes() -> None:
    x, y = features(300, 8), features(300, 5, torch.float32, seed=2).requires_grad_()
    (streamed,) = torch.autograd.grad(bx.hsic(x, y, workspace_bytes=400_000), y)
    (dense,) = torch.autograd.grad(bx.hsic(x, y), y)
    assert streamed.dtype == torch.float32
    assert relative_error(streamed, dense) < 1e-6


def test_gradcheck() -> None:
    x, y = features(7, 3).requires_grad_(), features(7, 2, seed=3).requires_grad_()
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 0])
    for estimator in ("biased", "unbiased"):
        for kernel in (bx.Gaussian(0.5), bx.Linear(), bx.InverseMultiquadric()):
            assert torch.autograd.gradcheck(
                lambda a, b, k=kernel, e=estimator: bx.hsic(a, b, k, k, estimator=e), (x, y)
            )
        assert torch.autograd.gradcheck(
            lambda a, e=estimator: bx.hsic(a, labels, bx.Gaussian(0.5), estimator=e), (x,)
        )


@each_estimator
@pytest.mark.parametrize(("tile", "keep"), [(3, -1), (3, 0), (3, 4), (512, -1), (7, 0)])
def test_gradcheck_of_a_group(unbiased: bool, tile: int, keep: int) -> None:
    leaves = [features(7, d, seed=d).requires_grad_() for d in (3, 2, 4)]
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 0])
    parameters = torch.tensor([0.5, 1.0, 1.0, 0.8], dtype=torch.float64)
    kinds = [GAUSSIAN, LINEAR, INVERSE_MULTIQUADRIC, LABELS]
    first, second = all_pairs(4)

    def values(*x: Tensor) -> Tensor:
        arguments = ([*x, labels], parameters, kinds, first, second, unbiased, tile, keep)
        return torch.ops.bido_ext.hsic(*arguments)[0] * 100

    assert torch.autograd.gradcheck(values, leaves)


@each_wide_dtype
@each_estimator
def test_opcheck(dtype: torch.dtype, unbiased: bool) -> None:
    x, y = features(6, 3, dtype).requires_grad_(), features(6, 2, dtype, seed=1)
    labels, K = torch.arange(6) % 2, gram(6, dtype)
    parameters = torch.tensor([0.5, 0.8, 1.0, 1.0], dtype=torch.float64)
    kinds = [GAUSSIAN, INVERSE_MULTIQUADRIC, LABELS, GRAM]
    pairs = ([0, 1, 3, 0], [2, 0, 1, 0])
    for tile, keep in ((3, 0), (3, 1), (3, -1), (512, -1)):  # tiles without padding
        head = ([x, y, labels, K], parameters, kinds, *pairs, unbiased, tile, keep)
        torch.library.opcheck(torch.ops.bido_ext.hsic, head)
        _, sums, tiles = (t.detach() for t in torch.ops.bido_ext.hsic(*head))
        grad = torch.rand(4, dtype=torch.float64)
        for wanted in ([0], [0, 1, 3], [1]):
            torch.library.opcheck(
                torch.ops.bido_ext.hsic_backward,
                (grad, [x.detach(), y, labels, K], parameters, sums, tiles, kinds, *pairs, unbiased,
                 tile, wanted),
            )  # fmt: skip


@pytest.mark.parametrize("n", [5, 300, 600])
def test_shapes_are_as_declared(n: int) -> None:
    """The fake kernel, which torch.compile believes, and the kernel agree, with padded tiles as well."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    variables = [features(n, 4, torch.float32), torch.arange(n) % 3, gram(n, torch.float32)]
    parameters, kinds = torch.ones(3, dtype=torch.float64), [GAUSSIAN, LABELS, GRAM]
    for tile, keep in ((1, -1), (128, -1), (128, 3), (50, 0), (512, -1), (4096, -1), (4096, 5)):
        tail = (kinds, [0, 2], [1, 0], False, tile, keep)
        if n == 600 and tile == 1:
            continue
        real = torch.ops.bido_ext.hsic(variables, parameters, *tail)
        with FakeTensorMode() as mode:
            fake = torch.ops.bido_ext.hsic(
                [mode.from_tensor(v) for v in variables], mode.from_tensor(parameters), *tail
            )
        assert [(t.shape, t.dtype) for t in fake] == [(t.shape, t.dtype) for t in real]


def test_compile() -> None:
    x, y = features(10, 4, torch.float32), torch.arange(10) % 3
    compiled = torch.compile(lambda a: bx.hsic(a, y), fullgraph=True)
    torch.testing.assert_close(compiled(x), bx.hsic(x, y))


def test_compile_of_streamed_tiles() -> None:
    x, y = features(300, 8, torch.float32), features(300, 5, torch.float32, seed=2)
    parameters = torch.tensor([0.1, 0.1], dtype=torch.float64)

    def values(a: Tensor) -> Tensor:
        tail = ([GAUSSIAN, GAUSSIAN], [0, 0], [1, 0], False, 64, -1)
        return torch.ops.bido_ext.hsic([a, y], parameters, *tail)[0]

    compiled = torch.compile(values, fullgraph=True)
    torch.testing.assert_close(compiled(x), values(x))


def test_double_backward_is_refused() -> None:
    x = features(6, 3).requires_grad_()
    (grad,) = torch.autograd.grad(bx.hsic(x, torch.arange(6) % 2), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative is not supported"):
        grad.sum().backward()


def test_linear_hsic_is_the_squared_cross_covariance() -> None:
    x, y = features(40, 6), features(40, 3, seed=2)
    covariance = (x - x.mean(0)).T @ (y - y.mean(0)) / 39
    value = bx.hsic(x, y, bx.Linear(), bx.Linear())
    assert float(value) == pytest.approx(float(covariance.square().sum()), rel=1e-10)


def test_independent_variables_have_unbiased_hsic_around_zero() -> None:
    values = [
        float(
            bx.hsic(torch.randn(50, 2), torch.randn(50, 2), bx.Gaussian(1.0), estimator="unbiased")
        )
        for _ in range(60)
    ]
    mean = sum(values) / len(values)
    spread = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
    assert abs(mean) < 4 * spread / len(values) ** 0.5
    assert min(values) < 0 < max(values)


def test_one_pass_formula_survives_the_bandwidth_of_bido() -> None:
    x, z = features(256, 500, torch.float32), features(256, 300, torch.float32, seed=9)
    truth = bx.hsic(x.double(), z.double())
    assert relative_error(bx.hsic(x, z), truth) < 1e-5
    K, L = bx.gaussian_gram(x), bx.gaussian_gram(z)  # with exp instead of expm1
    k, l_sums, n = K.sum(1), L.sum(1), 256
    naive = ((K * L).sum() - 2 / n * k @ l_sums + K.sum() * L.sum() / n**2) / (n - 1) ** 2
    assert relative_error(naive, truth) > 1e-2  # why the ops carry K - 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=readable)
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_a_user_made_kernel(dtype: torch.dtype, estimator: str) -> None:
    class Quadratic(bx.Kernel):
        def gram_up_to_centering(self, x: Tensor) -> Tensor:
            return (x @ x.T).square()

    x, y = features(40, 6), torch.arange(40) % 4
    leaf, value_leaf = x.clone().requires_grad_(), x.to(dtype).requires_grad_()
    L = (y[:, None] == y[None]).double()
    truth = reference.hsic((leaf @ leaf.T).square(), L, estimator == "unbiased")
    truth.backward()
    value = bx.hsic(value_leaf, y, Quadratic(), estimator=estimator)
    value.backward()
    tolerance = 1e-9 if dtype == torch.float64 else 2e-5
    assert relative_error(value.detach(), truth.detach()) < tolerance
    assert relative_error(value_leaf.grad, leaf.grad) < tolerance
    with pytest.raises(ValueError, match="kernel of your own has no streaming form"):
        bx.hsic(x, y, Quadratic(), workspace_bytes=10**6)


@pytest.mark.slow
def test_memory_of_a_large_batch() -> None:
    """n = 16384: one Gram matrix is 1 GiB; value and gradient grow the process by less than 200 MiB."""
    import resource

    x = torch.rand(16384, 64, requires_grad=True)
    y = torch.randint(0, 10, (16384,))
    bx.hsic(torch.rand(300, 64, requires_grad=True), y[:300], workspace_bytes=10**6).backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bx.hsic(x, y, workspace_bytes=64 << 20).backward()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 200 << 20


def test_what_the_reference_keeps_is_no_silent_input_of_a_kernel() -> None:
    """A kernel's backward of a reference's forward must be NaN, not memory that nobody wrote."""
    x, z = torch.rand(6, 3), torch.rand(6, 4)
    gamma = torch.tensor([0.1, 0.1], dtype=torch.float64)
    _, _, kept = _default([x, z], gamma, [0, 0], [0], [1], False, 6, -1)
    assert kept.numel()
    assert kept.isnan().sum() == kept.numel() - 1  # the first says whether float32 did


@each_estimator
@pytest.mark.parametrize("scale", [1e77, 1e80, 1e100])
def test_overflow_is_refused(scale: float, unbiased: bool) -> None:
    """Infinity passed for round-off of infinity: the biased value was 0 in silence."""
    x = features(20, 3) * scale
    with pytest.raises(ValueError, match="products of their Gram matrices overflow"):
        bx.hsic(x, x, bx.Linear(), bx.Linear(), "unbiased" if unbiased else "biased")

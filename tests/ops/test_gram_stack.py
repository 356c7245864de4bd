# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracle import (
    assert_within_budget,
    each_dtype,
    each_shape,
    each_wide_dtype,
    features,
    gram,
    readable,
    relative_error,
    symmetric,
)
from torch import Tensor

import bido_ext as bx
from bido_ext import reference
from bido_ext._float64 import resolved
from bido_ext.ops.gram_stack import _default, _default_backward, gram_stack, gram_stack_of
from bido_ext.ops.group import make_group
from bido_ext.reference.gram_stack import GAUSSIAN, GRAM, INVERSE_MULTIQUADRIC, LABELS, LINEAR
from bido_ext.serving.row import CONTRACTS, default_of


def _composition(name: str) -> Callable[..., Any]:
    """The default of an op as it is served: what float32 does not hold, in float64."""
    attempt = CONTRACTS[name].in_float64
    return lambda *args: resolved(attempt, name, lambda name, args, failed: default_of(name), args)


Implementation = tuple[Callable[..., Tensor], Callable[..., list[Tensor]]]
IMPLEMENTATIONS: dict[str, Implementation] = {
    "native": (torch.ops.bido_ext.gram_stack, torch.ops.bido_ext.gram_stack_backward),
    "reference": (_composition("gram_stack"), _composition("gram_stack_backward")),
}
each_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
#: Of the Gaussian variables of one group: nearly linear, ordinary, and nearly the identity.
GAMMAS = [1e-6, 0.02, 3.0, 1e6]
KINDS = [GAUSSIAN] * 4 + [LINEAR, INVERSE_MULTIQUADRIC, LABELS, GRAM]
FEATURES = 6  # of them


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def group_of(shape: tuple[int, int], dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """One variable of each of KINDS, of different widths, and the parameters."""
    n, d = shape
    variables = [features(n, d, dtype, seed=i) for i in range(4)]
    variables += [features(n, max(d // 2, 1), dtype), features(n, d + 3, dtype, seed=2)]
    variables += [torch.arange(n) % 3, symmetric(n, wide(dtype))]
    return variables, torch.tensor([*GAMMAS, 1.0, 1.0, 0.25, 1.0], dtype=torch.float64)


def cast(variables: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [v.to(dtype) if v.is_floating_point() else v for v in variables]


@each_implementation
@each_dtype
@each_shape
def test_forward(implementation: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    variables, parameters = group_of(shape, dtype)
    value = IMPLEMENTATIONS[implementation][0](variables, parameters, KINDS)
    truth = reference.gram_stack(cast(variables, torch.float64), parameters, KINDS)
    rival = reference.gram_stack(cast(variables, wide(dtype)), parameters, KINDS)
    assert value.dtype == wide(dtype)
    assert value.shape == (8, shape[0], shape[0])
    for kind, v, r, t in zip(KINDS, value, rival, truth, strict=True):
        assert_within_budget(v, r, t, wide(dtype))
        if implementation == "native":  # BLAS does not promise it to the textbook
            assert torch.equal(v, v.T)
        if kind in (GAUSSIAN, INVERSE_MULTIQUADRIC):
            assert torch.equal(v.diagonal(), torch.zeros_like(v[0]))
    assert torch.equal(value[-1], variables[-1])


def assert_gradients_are_right(
    implementation: str, dtype: torch.dtype, shape: tuple[int, int], kept: list[int], grad: Tensor
) -> None:
    every, parameters = group_of(shape, dtype)
    variables, parameters = [every[i] for i in kept], parameters[kept]
    kinds = [KINDS[i] for i in kept]
    grad = grad.to(wide(dtype))
    forward, backward = IMPLEMENTATIONS[implementation]
    stack = forward(variables, parameters, kinds)
    values = backward(grad, stack, variables, parameters, kinds)

    def textbook(working: torch.dtype, of_k: bool) -> tuple[Tensor, ...]:
        leaves = [v.to(working).requires_grad_() for v in variables]
        grams = reference.gram_stack(leaves, parameters, kinds)
        for i, kind in enumerate(kinds):
            if (
                of_k and kind == GAUSSIAN
            ):  # the same but for a constant; small K lose digits in K - 1
                grams[i] = reference.gaussian_gram(
                    leaves[i], float(parameters[i].flatten()[0]), False
                )
        return torch.autograd.grad(grams, leaves, list(grad.to(working)))

    rivals, truths = textbook(wide(dtype), False), textbook(torch.float64, True)
    for v, r, t, x in zip(values, rivals, truths, variables, strict=True):
        assert v.dtype == dtype
        assert v.shape == x.shape
        assert_within_budget(v, r, t, dtype)


@each_implementation
@each_dtype
@each_shape
def test_backward(implementation: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    n, kept = shape[0], [0, 1, 2, 3, 5]
    grad = torch.randn(5, n, n, dtype=torch.float64)  # not symmetric
    grad[:4] /= torch.tensor(GAMMAS)[:, None, None]  # keeps float16 in range
    assert_gradients_are_right(implementation, dtype, shape, kept, grad)


@each_implementation
@each_dtype
@each_shape
def test_backward_of_a_linear_kernel(
    implementation: str, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    """Its matrix is of centered features: a constant added to the rows has no gradient."""
    grad = torch.randn(1, shape[0], shape[0], dtype=torch.float64)
    assert_gradients_are_right(implementation, dtype, shape, [4], grad)


@each_implementation
@each_dtype
@pytest.mark.parametrize("shape", [(2, 4096), (63, 37), (130, 129)], ids=readable)
def test_backward_of_a_linear_kernel_with_centered_weights(
    implementation: str, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    """As every measure asks for it."""
    grad = torch.randn(1, shape[0], shape[0], dtype=torch.float64)
    grad = reference.double_center(grad[0])[None]
    assert_gradients_are_right(implementation, dtype, shape, [4], grad)


@each_implementation
def test_non_contiguous_and_overlapping_rows(implementation: str) -> None:
    forward, backward = IMPLEMENTATIONS[implementation]
    base = features(40, 60, torch.float32)
    parameters = torch.tensor([0.1, 1.0, 1.0], dtype=torch.float64)
    kinds = [GAUSSIAN, LINEAR, INVERSE_MULTIQUADRIC]
    for x in (base.T, base[::2, ::3], base[:, 5:9], base[:1].expand(9, 60)):
        n = x.shape[0]
        strided, dense = [x, x, x], [x.contiguous()] * 3
        stack = forward(strided, parameters, kinds)
        torch.testing.assert_close(stack, forward(dense, parameters, kinds))
        grad = torch.randn(3, n, n)
        grad[1] = reference.double_center(grad[1])
        values = backward(grad.mT, stack, strided, parameters, kinds)
        wanted = backward(grad.mT.contiguous(), stack, dense, parameters, kinds)
        for value, want in zip(values, wanted, strict=True):
            torch.testing.assert_close(value, want)
    labels = (torch.arange(40) % 3)[::2]
    K = gram(40, torch.float32)[::2, ::2]
    others = ([labels, K], parameters[:2], [LABELS, GRAM])
    stack = forward(*others)
    assert torch.equal(stack[0], (labels[:, None] == labels[None]).float() * parameters[0].float())
    assert torch.equal(stack[1], K)


@each_implementation
def test_duplicate_rows_have_distance_zero(implementation: str) -> None:
    x = features(5, 300, torch.float32)[[0, 1, 0, 2, 1]]
    arguments = ([x, x], torch.ones(2, dtype=torch.float64), [GAUSSIAN, INVERSE_MULTIQUADRIC])
    stack = IMPLEMENTATIONS[implementation][0](*arguments)
    truth = reference.gram_stack([x.double(), x.double()], *arguments[1:])
    assert float(stack.max()) <= 0
    for K, T in zip(stack, truth, strict=True):
        assert relative_error(K, T) < 1e-5
        assert float(K[0, 2]) == pytest.approx(0.0, abs=1e-5)


@each_implementation
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_features_show_everywhere_they_reach_and_nowhere_else(
    implementation: str, bad: float
) -> None:
    x, other = features(70, 9, torch.float32), features(70, 8, torch.float32)
    x[66, 4] = bad
    arguments = ([x, other, x], torch.ones(3, dtype=torch.float64), [GAUSSIAN, GAUSSIAN, LINEAR])
    stack = IMPLEMENTATIONS[implementation][0](*arguments)
    assert not torch.isfinite(stack[0]).any()
    assert torch.isfinite(stack[1]).all()
    assert not torch.isfinite(stack[2]).any()


@each_wide_dtype
def test_a_group_equals_its_variables_one_by_one(dtype: torch.dtype) -> None:
    variables, parameters = group_of((65, 1100), dtype)
    stack = torch.ops.bido_ext.gram_stack(variables, parameters, KINDS)
    for i in range(8):
        alone = gram_stack_of(variables, parameters, KINDS, [i])
        if i == KINDS.index(LABELS):  # labels alone have no dtype of their own
            alone = alone.to(dtype)
        torch.testing.assert_close(alone[0], stack[i], rtol=0, atol=0 if i >= FEATURES else 1e-6)
    gaussian = torch.ops.bido_ext.gaussian_gram(variables[1], parameters[1], True)
    assert relative_error(stack[1], gaussian) < (1e-14 if dtype == torch.float64 else 1e-6)
    assert gram_stack_of(variables, parameters, KINDS, []).shape == (0, 65, 65)


def test_kernels_become_kinds() -> None:
    class Mine(bx.Kernel):
        def gram_up_to_centering(self, x: Tensor) -> Tensor:
            return (x @ x.T).square()

    x, y = features(9, 4, torch.float32), torch.arange(9) % 2
    kernels = [bx.Gaussian(2.0), bx.Linear(), bx.InverseMultiquadric(), None, Mine()]
    leaf = x.clone().requires_grad_()
    group = make_group([x, x, x, y, leaf], kernels)
    assert group.kinds == [GAUSSIAN, LINEAR, INVERSE_MULTIQUADRIC, LABELS, GRAM]
    assert group.parameters.tolist() == [1 / (2 * 4 * 4), 1, 1, 1, 1]
    assert group.dims == [4, 4, 4, 0, 9]
    assert group.wanted() == [4]
    stack = gram_stack(group)
    torch.testing.assert_close(stack[4], (x @ x.T).square())
    weight = torch.randn(9, 9)  # not symmetric: the gradient of a Gram matrix is handed on
    (value,) = torch.autograd.grad((stack[4] * weight).sum(), leaf)
    expected_leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad(
        (Mine().gram_up_to_centering(expected_leaf) * weight).sum(), expected_leaf
    )
    torch.testing.assert_close(value, expected[0])
    assert make_group([x, x.double()], [None, None]).dtype == torch.float64  # the wider one wins


def test_gradients_through_autograd_of_some_variables() -> None:
    variables, parameters = group_of((20, 6), torch.float64)
    for wanted in ([1], [2, 7], [0, 5, 7], [7]):
        leaves = [v.clone().requires_grad_() if i in wanted else v for i, v in enumerate(variables)]
        weight = torch.randn(8, 20, 20, dtype=torch.float64)
        loss = (torch.ops.bido_ext.gram_stack(leaves, parameters, KINDS) * weight).sum()
        values = torch.autograd.grad(loss, [leaves[i] for i in wanted])
        truth = (torch.stack(reference.gram_stack(leaves, parameters, KINDS)) * weight).sum()
        expected = torch.autograd.grad(truth, [leaves[i] for i in wanted])
        for value, want in zip(values, expected, strict=True):
            assert relative_error(value, want) < 1e-12


def test_gradcheck() -> None:
    for n, d in [(2, 1), (5, 3), (9, 2)]:
        leaves = [features(n, d + i, seed=i).requires_grad_() for i in range(3)]
        leaves.append(symmetric(n).requires_grad_())
        parameters = torch.tensor([0.7, 1.0, 0.2, 1.0, 0.3], dtype=torch.float64)
        kinds = [GAUSSIAN, INVERSE_MULTIQUADRIC, GAUSSIAN, GRAM, LABELS]

        def stack(*x: Tensor, p: Tensor = parameters, k: list[int] = kinds) -> Tensor:
            return torch.ops.bido_ext.gram_stack([*x, torch.arange(x[0].shape[0]) % 2], p, k)

        assert torch.autograd.gradcheck(stack, leaves)


def test_opcheck() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        variables, parameters = group_of((6, 4), dtype)
        leaves: list[Any] = [variables[0].requires_grad_(), *variables[1:]]
        torch.library.opcheck(torch.ops.bido_ext.gram_stack, (leaves, parameters, KINDS))
        head = (
            [v.detach() for v in variables[:FEATURES]],
            parameters[:FEATURES].clone(),
            KINDS[:FEATURES],
        )
        stack = torch.ops.bido_ext.gram_stack(*head)
        torch.library.opcheck(
            torch.ops.bido_ext.gram_stack_backward, (torch.randn_like(stack), stack, *head)
        )


def test_compile() -> None:
    x, y = features(12, 5, torch.float32), torch.arange(12) % 3

    def loss(t: Tensor) -> Tensor:
        return gram_stack(make_group([t, y], [bx.Gaussian(1.0), None])).sin().sum()

    eager, compiled = (x.clone().requires_grad_() for _ in range(2))
    loss(eager).backward()
    torch.compile(loss, fullgraph=True)(compiled).backward()
    torch.testing.assert_close(compiled.grad, eager.grad, rtol=1e-5, atol=1e-7)


def test_double_backward_is_refused() -> None:
    x = features(4, 3).requires_grad_()
    stack = gram_stack(make_group([x, x], [None, None]))
    (grad,) = torch.autograd.grad(stack.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative is not supported"):
        grad.sum().backward()


@each_wide_dtype
@pytest.mark.parametrize("d", [26003, 26016])  # a row ends within a cache line, and with one
def test_gradients_larger_than_the_caches(dtype: torch.dtype, d: int) -> None:
    """They are streamed past the caches, a line at a time, with the odd entries before and behind."""
    n = 43
    x, narrow = features(n, d, dtype), features(n, 40, dtype, seed=3)
    parameters = torch.tensor([1.0 / d, 0.1], dtype=torch.float64)
    arguments = [x, narrow], parameters, [GAUSSIAN, GAUSSIAN]
    stack, grad = torch.ops.bido_ext.gram_stack(*arguments), symmetric(n, dtype).expand(2, n, n)
    got = torch.ops.bido_ext.gram_stack_backward(grad, stack, *arguments)
    wide_arguments = [x.double(), narrow.double()], parameters, [GAUSSIAN, GAUSSIAN]
    want = _default_backward(grad.double(), _default(*wide_arguments), *wide_arguments)
    for value, expected in zip(got, want, strict=True):
        assert relative_error(value, expected) < (1e-10 if dtype == torch.float64 else 1e-5)

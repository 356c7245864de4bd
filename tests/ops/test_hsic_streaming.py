# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracle import FLOORS, each_dtype, each_wide_dtype, features, relative_error
from torch import Tensor

import bido_ext as bx
from bido_ext import reference
from bido_ext.ops.hsic_streaming import GAUSSIAN, LABELS, _default, _default_backward

Implementation = tuple[Callable[..., Any], Callable[..., Any]]
IMPLEMENTATIONS: dict[str, Implementation] = {
    "native": (torch.ops.bido_ext.hsic_streaming, torch.ops.bido_ext.hsic_streaming_backward),
    "reference": (_default, _default_backward),
}
each_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
KERNELS = [bx.Gaussian(2.0), bx.Linear(), bx.InverseMultiquadric()]


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def gaussian_arguments(x: Tensor, y: Tensor, tile: int, keep: bool = False) -> tuple[Any, ...]:
    gammas = number(0.3 / x.shape[1]), number(0.2 / y.shape[1])
    return (x, y, *gammas, GAUSSIAN, GAUSSIAN, tile, keep)


@each_implementation
@each_dtype
@pytest.mark.parametrize(
    ("n", "d", "e", "tile"),
    [(2, 1, 3, 1), (3, 1030, 2, 1), (63, 37, 5, 32), (130, 2100, 64, 50), (130, 5, 2, 4096)],
)
def test_forward(
    implementation: str, dtype: torch.dtype, n: int, d: int, e: int, tile: int
) -> None:
    x, y = features(n, d, dtype), features(n, e, dtype, seed=3)
    values, x_sums, *_ = IMPLEMENTATIONS[implementation][0](*gaussian_arguments(x, y, tile))
    truth = reference.hsic_streaming(x.double(), y.double(), 0.3 / d, 0.2 / e)
    assert values.dtype == torch.float64
    assert relative_error(values, truth) < (1e-9 if dtype == torch.float64 else 3e-6)
    E = reference.gaussian_gram(x.double(), 0.3 / d, True)
    assert relative_error(x_sums, E.sum(1)) < (1e-11 if dtype == torch.float64 else 1e-5)


@each_implementation
@each_dtype
@pytest.mark.parametrize(("n", "d", "e"), [(2, 1, 3), (63, 37, 5), (130, 1100, 64)])
@pytest.mark.parametrize("tile", [32, 50, 4096])
@pytest.mark.parametrize("keep", [False, True], ids=["recompute", "keep"])
def test_backward(
    implementation: str, dtype: torch.dtype, n: int, d: int, e: int, tile: int, keep: bool
) -> None:
    x, y = features(n, d, dtype), features(n, e, dtype, seed=3)
    forward, backward = IMPLEMENTATIONS[implementation]
    arguments = gaussian_arguments(x, y, tile, keep)
    _, *kept = forward(*arguments)
    grad = torch.tensor([1.0, -0.3, 0.7], dtype=torch.float64) * 1e4 * n  # keeps float16 in range
    grads = backward(grad, *arguments[:4], *kept, *arguments[4:-1], True, True)
    leaves = [t.double().requires_grad_() for t in (x, y)]
    truth = torch.autograd.grad(reference.hsic_streaming(*leaves, 0.3 / d, 0.2 / e), leaves, grad)
    for value, want in zip(grads, truth, strict=True):
        assert value.dtype == dtype
        assert relative_error(value, want) < 1e-9 + 10 * FLOORS[dtype]


@pytest.mark.parametrize("measure", [bx.hsic, bx.cka], ids=lambda f: f.__name__)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
@pytest.mark.parametrize("target", ["features", "labels"])
@each_wide_dtype
def test_streaming_equals_dense(
    measure: Callable[..., Tensor], kernel: bx.Kernel, target: str, dtype: torch.dtype
) -> None:
    x = features(400, 90, dtype)
    y = features(400, 7, dtype, seed=3) if target == "features" else torch.randint(0, 5, (400,))
    small = 500_000 if dtype == torch.float64 else 250_000
    assert bx.plan(400, [90, 7], dtype, measure.__name__, small).regime == "streaming"
    assert bx.plan(400, [90, 7], dtype, measure.__name__, 1 << 30).regime == "dense"
    results = []
    for workspace in (None, small, 1 << 30):  # whole matrices, streamed tiles, kept tiles
        leaf = x.clone().requires_grad_()
        value = measure(leaf, y, kernel, kernel, num_classes=5, workspace_bytes=workspace)
        value.backward()
        results.append((value.detach(), leaf.grad))
    (whole, whole_grad), *tiled = results
    for value, grad in tiled:
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
    scale = torch.tensor([1e2, 3e2, -1e2], dtype=torch.float64)

    def values(a: Tensor, b: Tensor) -> Tensor:
        arguments = (a, b, number(0.5), number(0.8), GAUSSIAN, GAUSSIAN, 3, True)
        return torch.ops.bido_ext.hsic_streaming(*arguments)[0] * scale

    assert torch.autograd.gradcheck(values, (x, y))


def test_opcheck() -> None:
    x, y = features(6, 3).requires_grad_(), features(6, 2, seed=1)
    arguments = (
        x,
        y,
        number(0.5),
        number(0.8),
        GAUSSIAN,
        GAUSSIAN,
        3,
        False,
    )  # tiles without padding
    torch.library.opcheck(torch.ops.bido_ext.hsic_streaming, arguments)
    torch.library.opcheck(torch.ops.bido_ext.hsic_streaming, (*arguments[:-1], True))
    labels = torch.arange(6) % 2
    with_labels = (x, labels, number(0.5), number(1.0), GAUSSIAN, LABELS, 3, True)
    torch.library.opcheck(torch.ops.bido_ext.hsic_streaming, with_labels)
    kept = [t.detach() for t in torch.ops.bido_ext.hsic_streaming(*arguments)[1:]]
    grad = torch.rand(3, dtype=torch.float64)
    for needs in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(
            torch.ops.bido_ext.hsic_streaming_backward,
            (grad, x.detach(), y, *arguments[2:4], *kept, *arguments[4:-1], *needs),
        )


def test_compile() -> None:
    x, y = features(300, 8, torch.float32), features(300, 5, torch.float32, seed=2)

    def values(a: Tensor) -> Tensor:
        arguments = (a, y, number(0.1), number(0.1), GAUSSIAN, GAUSSIAN, 64, True)
        return torch.ops.bido_ext.hsic_streaming(*arguments)[0]

    compiled = torch.compile(values, fullgraph=True)
    torch.testing.assert_close(compiled(x), values(x))


@each_implementation
def test_strided_rows_and_bad_features(implementation: str) -> None:
    forward, _ = IMPLEMENTATIONS[implementation]
    base = features(80, 60, torch.float32)
    x, y = base[::2, 10:30], base[::2, ::4]
    dense = gaussian_arguments(x.contiguous(), y.contiguous(), 16)
    values = forward(*gaussian_arguments(x, y, 16))[0]
    torch.testing.assert_close(values, forward(*dense)[0], rtol=1e-6, atol=0)
    bad = x.clone()
    bad[33, 3] = float("nan")
    assert torch.isnan(forward(*gaussian_arguments(bad, y, 16))[0][:2]).all()


def test_planner() -> None:
    small = bx.plan(1000, [512, 256], workspace_bytes=64 << 20)
    assert (small.regime, small.tile) == ("dense", 64)
    assert small.workspace_bytes < 1.6 * 1000 * 1000 * 4
    pair = bx.plan(16384, [512, 512], workspace_bytes=4 << 30)
    assert 1.0 < pair.workspace_bytes / (16384**2 * 4) < 1.1  # in n x n float32 matrices
    labels = bx.plan(16384, [512], workspace_bytes=4 << 30)
    assert 0.5 < labels.workspace_bytes / (16384**2 * 4) < 0.6
    large = bx.plan(32768, [512, 512], workspace_bytes=256 << 20)
    assert large.regime == "streaming"
    assert large.workspace_bytes < 256 << 20
    assert "does not fit into workspace_bytes=268,435,456" in large.reason
    tighter = bx.plan(32768, [512, 512], workspace_bytes=8 << 20)
    assert 32 <= tighter.tile < large.tile
    assert tighter.workspace_bytes <= 8 << 20
    assert bx.plan(64, [100], measure="nhsic").regime == "dense"
    assert "free memory" in bx.plan(64, [100, 3], measure="cka").reason


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, y: bx.hsic(x, y, workspace_bytes=1000), MemoryError, "hsic of n=50 samples needs at least .* more than workspace_bytes=1,000"),
        (lambda x, y: bx.cka(x, y, workspace_bytes=0), ValueError, "workspace_bytes must be positive, got 0"),
        (lambda x, y: bx.hsic(x, y, workspace_bytes=1e6), TypeError, "workspace_bytes must be an integer, got float"),
        (lambda x, y: bx.hsic(x, y, estimator="unbiased", workspace_bytes=10**6), ValueError, "the unbiased one cannot stream"),
        (lambda x, y: bx.plan(10**6, [512], measure="nhsic", workspace_bytes=1 << 30), MemoryError, "use hsic or cka, which stream"),
        (lambda x, y: bx.plan(1, [512]), ValueError, "plan needs n >= 2"),
        (lambda x, y: bx.plan(10, [512], measure="mmd"), ValueError, "measure must be one of"),
    ],
)  # fmt: skip
def test_refusals(call: Callable[..., Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(torch.rand(50, 3), torch.arange(50) % 3)


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

# SPDX-License-Identifier: Apache-2.0
"""The top singular triple of a product of two centered Gram matrices: every way finds what an SVD finds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import bido_ext as bx
from bido_ext.ops import top_singular
from bido_ext.ops.algebra import center_stack

WAYS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "chosen": top_singular.top_singular_vectors,
    "decomposed": top_singular.decomposed,
    "squared": top_singular.squared,
    "until converged": top_singular.until_converged,
    "in fixed steps": top_singular.in_fixed_steps,
}


def centered_grams(kind: str, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((n, 2 if kind == "low rank" else 50), generator=generator, dtype=torch.float64)
    y = torch.randn((n, 7), generator=generator, dtype=torch.float64)
    K = bx.gaussian_gram(x, 0.3 if kind == "narrow" else 5.0)
    L = bx.gaussian_gram(y)
    if kind == "labels":
        labels = torch.arange(n) % 5
        L = (labels[:, None] == labels).double()
    return center_stack(K, dtype), center_stack(L, dtype)


def value(K: Tensor, L: Tensor, u: Tensor, v: Tensor) -> float:
    return float(torch.dot(K @ u, L @ v))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["wide", "narrow", "low rank", "labels"])
@pytest.mark.parametrize("n", [2, 30, 300])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_value_and_vectors_are_those_of_an_svd(
    way: str, kind: str, n: int, dtype: torch.dtype
) -> None:
    if n < 100 and way in ("until converged", "in fixed steps"):
        n += 100  # the space is larger than that of few samples
    K, L = centered_grams(kind, n, dtype)
    u, v = WAYS[way](K, L)
    U, s, Vh = torch.linalg.svd(K.double() @ L.double())
    close = 1e-9 if dtype == torch.float64 else 1e-4
    assert value(K.double(), L.double(), u.double(), v.double()) == pytest.approx(
        float(s[0]), rel=close / 10
    )
    if n > 2 and s[1] < 0.9 * s[0] and way != "in fixed steps":
        sign = torch.sign(v.double() @ Vh[0])
        assert float((sign * v.double() - Vh[0]).norm()) < close
        assert float((sign * u.double() - U[:, 0]).norm()) < close


@pytest.mark.parametrize("way", WAYS)
def test_nothing_has_the_value_0(way: str) -> None:
    zero = torch.zeros(80, 80, dtype=torch.float64)
    u, v = WAYS[way](zero, torch.eye(80, dtype=torch.float64))
    assert value(zero, zero, u, v) == 0
    assert torch.isfinite(u).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("n", [30, 300])
def test_nan_is_seen(way: str, n: int) -> None:
    K, L = centered_grams("wide", n, torch.float64)
    K[3, 4] = float("nan")
    u, v = WAYS[way](K, L)
    assert value(L, L, u, v) != value(L, L, u, v)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_the_scale_of_the_matrices_is_free(scale: float) -> None:
    K, L = centered_grams("wide", 300, torch.float64)
    u, v = top_singular.top_singular_vectors(K * scale, L)
    expected = value(K, L, *top_singular.top_singular_vectors(K, L))
    assert value(K, L, u, v) == pytest.approx(expected, rel=1e-12)


def test_what_does_not_converge_is_decomposed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Singular values that lie close: a space of few columns does not tell them apart."""
    n = 300
    Q, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))
    K = Q @ torch.diag(torch.linspace(1, 1 - 1e-6, n, dtype=torch.float64)) @ Q.T
    asked = []

    def decomposed(K: Tensor, L: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(1)
        return original(K, L)

    original = top_singular.decomposed
    monkeypatch.setattr(top_singular, "decomposed", decomposed)
    u, v = top_singular.until_converged(K, torch.eye(n, dtype=torch.float64))
    assert asked == [1]
    assert value(K, torch.eye(n, dtype=torch.float64), u, v) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("way", ["squared", "in fixed steps"])
def test_a_gpu_need_not_read_a_value_back(way: str) -> None:
    """The traced graph has no item, no nonzero, nothing whose shape depends on values."""
    from torch.fx.experimental.proxy_tensor import make_fx

    K, L = centered_grams("wide", 40 if way == "squared" else 120, torch.float64)
    graph = make_fx(lambda K, L: WAYS[way](K, L), tracing_mode="fake")(K, L).graph
    called = {str(node.target) for node in graph.nodes if node.op == "call_function"}
    assert called
    for word in ("item", "nonzero", "_local_scalar_dense", "eigh", "svd", "masked_select"):
        assert not any(word in name for name in called), word

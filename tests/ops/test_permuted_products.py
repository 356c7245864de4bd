# SPDX-License-Identifier: Apache-2.0
"""permuted_products and permuted_factor_products: every implementation against the textbook in float64."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from oracle import FLOORS, each_wide_dtype, readable, relative_error, symmetric
from torch import Tensor

import bido_ext as bx  # noqa: F401  (defines the ops)
from bido_ext import reference

CONTRACT = sys.modules["bido_ext.ops.permuted_products"]
PRODUCTS: dict[str, Callable[..., Tensor]] = {
    "native": CONTRACT.permuted_products,
    "default": CONTRACT._default,
}
FACTORS: dict[str, Callable[..., Tensor]] = {
    "native": CONTRACT.permuted_factor_products,
    "default": CONTRACT._default_factors,
    "textbook": reference.permuted_factor_products,
}
CLASSES: dict[str, Callable[..., Tensor]] = {
    "native": CONTRACT.permuted_class_sums,
    "default": CONTRACT._default_classes,
}
each_product = pytest.mark.parametrize("implementation", PRODUCTS)
each_factor = pytest.mark.parametrize("implementation", FACTORS)
each_n = pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 63, 130, 333])


def permutations(n: int, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(n, generator=generator) for _ in range(count)]
    return torch.stack([torch.arange(n), *rows]).int()


@each_product
@each_wide_dtype
@each_n
def test_forward(implementation: str, dtype: torch.dtype, n: int) -> None:
    K, L = symmetric(n, dtype), symmetric(n, dtype, seed=1)
    p = permutations(n, 70)
    truth = reference.permuted_products(K.double(), L.double(), p)
    value = PRODUCTS[implementation](K, 0, L, p)
    assert value.dtype == torch.float64
    # Entries are given: only the sums round, and those are in float64 for either dtype.
    assert relative_error(value, truth) < FLOORS[torch.float64]


@each_product
@pytest.mark.parametrize("cut", [0, 1, 20, 49, 50])
def test_panels_add_up(implementation: str, cut: int) -> None:
    K, L, p = symmetric(50), symmetric(50, seed=1), permutations(50, 5)
    of = PRODUCTS[implementation]
    truth = reference.permuted_products(K, L, p)
    assert relative_error(of(K[:cut], 0, L, p) + of(K[cut:], cut, L, p), truth) < 1e-12


@each_factor
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (40, 1, 17), (300, 33, 40), (257, 8, 16)], ids=readable
)
def test_factors(implementation: str, shape: tuple[int, int, int]) -> None:
    n, r, s = shape
    generator = torch.Generator().manual_seed(n)
    A = torch.randn(n, r, generator=generator, dtype=torch.float64)
    B = torch.randn(n, s, generator=generator, dtype=torch.float64)
    p = permutations(n, 9)
    truth = reference.permuted_products(A @ A.T, B @ B.T, p)
    assert relative_error(FACTORS[implementation](A, B, p), truth) < 1e-12


@pytest.mark.parametrize("implementation", CLASSES)
@each_wide_dtype
@each_n
@pytest.mark.parametrize("classes", [1, 3, 1000])
def test_classes(implementation: str, dtype: torch.dtype, n: int, classes: int) -> None:
    K, y = symmetric(n, dtype), (torch.arange(n) % classes).int()
    labels = y[permutations(n, 40).long()]
    same = (y[:, None] == y).double()
    truth = reference.permuted_products(K.double(), same, permutations(n, 40))
    of, cut = CLASSES[implementation], n // 3
    assert relative_error(of(K, 0, labels), truth) < FLOORS[torch.float64]
    assert relative_error(of(K[:cut], 0, labels) + of(K[cut:], cut, labels), truth) < 1e-12
    assert relative_error(reference.permuted_class_sums(K.double(), labels), truth) < 1e-12


def test_strided_input_and_no_permutations() -> None:
    K, L, p = symmetric(60), symmetric(60, seed=1), permutations(30, 4)
    strided = CONTRACT.permuted_products(K[::2, ::2], 0, L[::2, ::2], p[:, :])
    whole = CONTRACT.permuted_products(K[::2, ::2].contiguous(), 0, L[::2, ::2].contiguous(), p)
    assert torch.equal(strided, whole)
    assert CONTRACT.permuted_products(K, 0, L, p.new_empty((0, 60))).shape == (0,)
    A = torch.ones(60, 2, dtype=torch.float64)
    assert CONTRACT.permuted_factor_products(A, A, p.new_empty((0, 60))).shape == (0,)


def test_sums_do_not_depend_on_the_threads() -> None:
    K, L, p = symmetric(200), symmetric(200, seed=1), permutations(200, 100)
    A = torch.randn(200, 12, dtype=torch.float64)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(
                (
                    CONTRACT.permuted_products(K, 0, L, p),
                    CONTRACT.permuted_factor_products(A, A, p),
                    CONTRACT.permuted_class_sums(K, 0, p % 7),
                )
            )
    finally:
        torch.set_num_threads(before)
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(others, results[0], strict=True))


@pytest.mark.parametrize("index", [-1, 5])
def test_indices_out_of_range_are_refused(index: int) -> None:
    K, p = symmetric(5), permutations(5, 1)
    p[1, 2] = index
    with pytest.raises(RuntimeError, match="out of range"):
        torch.ops.bido_ext.permuted_products(K, 0, K, p)


def test_opcheck() -> None:
    K, L, p = symmetric(7), symmetric(7, seed=1), permutations(7, 3)
    torch.library.opcheck(torch.ops.bido_ext.permuted_products, (K[2:6], 2, L, p))
    torch.library.opcheck(torch.ops.bido_ext.permuted_factor_products, (K[:, :3], L[:, :2], p))
    torch.library.opcheck(torch.ops.bido_ext.permuted_class_sums, (K[2:6].float(), 2, p % 3))


def test_compile() -> None:
    K, L, p = symmetric(9), symmetric(9, seed=1), permutations(9, 3)
    compiled = torch.compile(
        lambda K, L, p: CONTRACT.permuted_products(K, 0, L, p) * 2, fullgraph=True, backend="eager"
    )
    assert torch.equal(compiled(K, L, p), 2 * CONTRACT.permuted_products(K, 0, L, p))

# SPDX-License-Identifier: Apache-2.0
"""What a step of BiDOLoss does no more often than it has to, and what it takes from memory."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

import bido_ext as bx
from bido_ext.reference.gram_stack import GAUSSIAN
from bido_ext.serving import on_cpu

#: The modules, behind the functions of the same names.
gram_stack_module = importlib.import_module("bido_ext.ops.gram_stack")
nhsic_module = importlib.import_module("bido_ext.ops.nhsic")

X, Z, Y = torch.rand(12, 36), torch.rand(12, 5), torch.arange(12) % 3


class Counts:
    """Gram matrices and factorisations asked for, and the shapes of what was factorised."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.grams = self.factorisations = 0
        self.kinds: list[int] = []
        gram_stack_of, cholesky_ex = nhsic_module.gram_stack_of, torch.linalg.cholesky_ex

        def counted_gram_stack_of(variables: Any, parameters: Any, kinds: Any, indices: Any) -> Any:
            self.grams += len(indices)
            self.kinds += [kinds[i] for i in indices]
            return gram_stack_of(variables, parameters, kinds, indices)

        def counted_cholesky_ex(A: Tensor, **options: Any) -> Any:
            self.factorisations += A.shape[:-2].numel()
            return cholesky_ex(A, **options)

        monkeypatch.setattr(nhsic_module, "gram_stack_of", counted_gram_stack_of)
        monkeypatch.setattr(torch.linalg, "cholesky_ex", counted_cholesky_ex)
        # Nobody may ask for matrices, or for another factorisation, behind the counters.
        for name in ("inv", "inv_ex", "solve", "eigh", "cholesky", "lu_factor", "svd"):
            monkeypatch.setattr(torch.linalg, name, self.refuse)
        monkeypatch.setattr(gram_stack_module, "gram_stack", self.refuse)

    def refuse(self, *args: Any, **options: Any) -> Any:
        raise AssertionError("an algorithm that is not counted")


@pytest.mark.parametrize("n", [64, 300])  # batched and one after the other
@pytest.mark.parametrize("input_gradient", [False, True])
def test_a_step_makes_and_factorises_each_gram_matrix_once(
    monkeypatch: pytest.MonkeyPatch, n: int, input_gradient: bool
) -> None:
    monkeypatch.setattr(on_cpu, "KERNELS_OF_COMPOSITIONS", False)  # the kernel asks nobody
    layers = 5
    x = torch.rand(n, 30, requires_grad=input_gradient)
    z = [torch.rand(n, 7 + j, requires_grad=True) for j in range(layers)]
    y = torch.arange(n) % 4
    counts = Counts(monkeypatch)
    bx.BiDOLoss("nhsic")(x, z, y).backward()
    assert all(float(t.grad.abs().max()) > 0 for t in z)
    assert counts.grams == counts.factorisations == layers + 1
    assert counts.kinds == [GAUSSIAN] * (layers + 1)

    for t in z:
        t.grad = None
    counts = Counts(monkeypatch)  # on top: what the pairs would take one by one, as a control
    sum(bx.nhsic(t, x) - bx.nhsic(t, y) for t in z).backward()
    assert counts.grams == counts.factorisations == 3 * layers


@pytest.mark.parametrize("measure", ["hsic", "cka"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_streaming_step_equals_dense(measure: str, dtype: torch.dtype) -> None:
    n, dims = 600, [300, 90, 20, 7]
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(n, dims[0], generator=generator).to(dtype)
    layers = [
        torch.relu(x[:, :d] + torch.rand(n, d, generator=generator).to(dtype)) for d in dims[1:]
    ]
    y = torch.randint(0, 5, (n,), generator=generator)
    assert bx.plan(n, [*dims, 0], dtype, measure, 1_000_000).regime == "streaming"
    results = []
    for workspace in (None, 1_000_000):
        leaves = [t.clone().requires_grad_() for t in (x, *layers)]
        criterion = bx.BiDOLoss(measure, 1.0, 10.0, workspace_bytes=workspace)
        value = criterion(leaves[0], leaves[1:], y)
        value.backward()
        terms = torch.stack([t for term in criterion.terms.values() for t in term])
        results.append((value.detach(), terms, [t.grad for t in leaves]))
    (dense, dense_terms, dense_grads), (streamed, terms, grads) = results
    assert abs(float(streamed - dense)) < 1e-6 * float(dense_terms.abs().max()) * 10
    torch.testing.assert_close(terms, dense_terms, rtol=1e-6, atol=0)
    for grad, want in zip(grads, dense_grads, strict=True):
        assert float((grad - want).norm() / want.norm()) < 1e-5


def test_a_workspace_too_small_for_a_step_is_refused() -> None:
    with pytest.raises(MemoryError, match="hsic of n=12 samples needs at least"):
        bx.BiDOLoss("hsic", workspace_bytes=100)(X, [Z], Y)

# SPDX-License-Identifier: Apache-2.0
"""The tests' quicker interpreter gives the bits of Triton's own, and is quicker."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import quick_interpreter
import torch
from interpreter import skip_where_the_interpreter_is_broken
from torch import Tensor

from bido_ext.reference.kernel_entries import LABELS, LINEAR
from bido_ext.serving.implementations import functions_of


def value_and_gradient(dtype: torch.dtype) -> tuple[Tensor, ...]:
    gram, stack = (functions_of(op, "triton") for op in ("gaussian_gram", "gram_stack"))
    x = torch.randn(20, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    gamma = torch.tensor(0.02, dtype=torch.float64)
    K = gram["gaussian_gram"](x, gamma, True)
    labels = torch.arange(20) % 3
    parameters = torch.tensor([1.0, 0.5], dtype=torch.float64)
    E = stack["gram_stack"]([x, labels], parameters, [LINEAR, LABELS])
    return K, gram["gaussian_gram_backward"](torch.ones(20, 20), K, x, gamma, True), E[0], E[1]


def test_it_gives_the_bits_of_tritons_own(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_where_the_interpreter_is_broken()
    interpreter = importlib.import_module("triton.runtime.interpreter")
    scans, scan = [], interpreter._patch_builtin

    def counted(*args: Any) -> None:
        scans.append(1)
        scan(*args)

    monkeypatch.setattr(interpreter, "_patch_builtin", counted)
    value_and_gradient(torch.float32)  # what is made once
    for dtype in (torch.float32, torch.bfloat16):
        scans.clear()
        quick = value_and_gradient(dtype)
        few = len(scans)
        with monkeypatch.context() as tritons_own:
            for where, name, original in quick_interpreter.replaced:
                tritons_own.setattr(where, name, original)
            own = value_and_gradient(dtype)
        assert all(torch.equal(a, b) for a, b in zip(quick, own, strict=True))
        assert few < (len(scans) - few) / 4

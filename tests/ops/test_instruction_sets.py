# SPDX-License-Identifier: Apache-2.0
"""The CPU products exist for three instruction sets; every one of them must be right."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
from preloaded import run_python

CODE = """
import sys
sys.path.insert(0, {tests!r})
import torch
from oracle import features, relative_error
import bido_ext as bx
from bido_ext import reference
from bido_ext.ops.group import Pairs, make_group
from bido_ext.ops.hsic import hsic_of_pairs

assert bx.backends()[0].implementation == "cpu", bx.backends()[0]
value_bound = {{torch.float64: 1e-9, torch.float32: 3e-6}}
gradient_bound = {{torch.float64: 1e-9, torch.float32: 1.1e-5}}  # as tests/ops/test_hsic.py
bits = []
for n, d in [(67, 1037), (200, 53), (260, 130), (5, 3)]:
    for dtype in (torch.float32, torch.float64):
        x, z = features(n, d, dtype), features(n, 31, dtype, seed=1)
        weight = torch.randn(n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        weight = weight.to(dtype)
        results = []
        for working in (torch.float64, dtype):
            a, b = (t.to(working, copy=True).requires_grad_() for t in (x, z))
            if working is torch.float64 and len(results) == 0:
                K = reference.gaussian_gram(a, 1 / (2 * d), True)
                L = reference.gaussian_gram(b, 1 / (2 * 31), True)
                grams, value = K, reference.hsic(K, L)
            else:
                gamma = torch.tensor(1 / (2 * d), dtype=torch.float64)
                grams = torch.ops.bido_ext.gaussian_gram(a, gamma, True)
                value = bx.hsic(a, b, bx.Gaussian(1.0), bx.Gaussian(1.0))
            (grad,) = torch.autograd.grad((grams * weight.to(working)).sum(), a, retain_graph=True)
            grads = torch.autograd.grad(value, (a, b))
            results.append((grams.detach(), value.detach(), grad, *grads))
        truth, got = results
        for i, (want, have) in enumerate(zip(truth, got)):
            bound = (value_bound if i < 2 else gradient_bound)[dtype]
            error = relative_error(have, want)
            assert error < bound, (n, d, dtype, i, error)
        group = make_group([x, z], [bx.Gaussian(1.0)] * 2)
        stream = hsic_of_pairs(group, Pairs([0], [1]), tile=32, kept_tiles=0)[0]
        assert relative_error(stream, truth[1]) < value_bound[dtype]
        bits.append(float(got[1]))
print("right", bits)
"""


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="one instruction set elsewhere"
)
@pytest.mark.parametrize("isa", ["baseline", "x86-64-v3", "x86-64-v4"])
def test_products_are_right(isa: str) -> None:
    """A machine without the set takes the best one it has, which must be right as well."""
    tests = str(Path(__file__).resolve().parents[1])
    environment = {k: v for k, v in os.environ.items() if k != "BIDO_EXT_BACKEND"}
    result = run_python(CODE.format(tests=tests), env={**environment, "BIDO_EXT_CPU_ISA": isa})
    assert result.returncode == 0, result.stderr
    assert "right" in result.stdout

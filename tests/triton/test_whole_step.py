# SPDX-License-Identifier: Apache-2.0
"""The package as a user calls it, served by the Triton kernels in their interpreter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import quick_interpreter
from interpreter import skip_where_the_interpreter_is_broken
from preloaded import run_python

STEP = """
import os, torch, bido_ext as bx
torch.manual_seed(0)
x, y = torch.rand(12, 40), torch.arange(12) % 3
for measure in ("hsic", "nhsic", "coco", "cka"):
    z = [torch.rand(12, d, generator=torch.Generator().manual_seed(d)).requires_grad_() for d in (50, 9)]
    loss = bx.BiDOLoss(measure=measure, lambda_x=0.5, lambda_y=0.3)(x, z, y)
    loss.backward()
    print(float(loss), *[float(t.grad.norm()) for t in z])
if "STREAM" not in os.environ:
    raise SystemExit
big = torch.rand(520, 3, requires_grad=True)
value = bx.hsic(big, torch.rand(520, 2), workspace_bytes=1_000_000)
value.backward()
print(float(value), float(big.grad.norm()))
"""

QUICK = """
import sys; sys.path.append({tests!r})
import triton.runtime.interpreter, quick_interpreter; quick_interpreter.quicken()
"""


@pytest.mark.parametrize(
    "stream",
    [{}, pytest.param({"STREAM": "1"}, marks=pytest.mark.slow)],
    ids=["whole", "streaming"],
)
def test_a_whole_step_through_the_kernels(stream: dict[str, str]) -> None:
    """The package as a user calls it, served by the interpreted kernels, equals the CPU kernels."""
    skip_where_the_interpreter_is_broken()
    results = []
    forced = {"BIDO_EXT_BACKEND": "triton", "TRITON_INTERPRET": "1"}
    for extra in (stream, {**forced, **stream}, {"BIDO_EXT_BACKEND": "reference"}):
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("BIDO_EXT", "TRITON_I"))
        }
        code = STEP
        if extra.get("BIDO_EXT_BACKEND") == "triton":
            code = QUICK.format(tests=str(Path(quick_interpreter.__file__).parent)) + STEP
        done = run_python(code, env={**environment, **extra}, cwd="/")
        assert done.returncode == 0, done.stderr[-3000:]
        results.append([float(word) for word in done.stdout.split()])
    native, triton, reference = results
    assert triton == pytest.approx(native, rel=2e-5)
    assert reference == pytest.approx(native[: len(reference)], rel=2e-5)

# SPDX-License-Identifier: Apache-2.0
"""Correctness first: no time is reported for an implementation that misses the float64 truth.

Errors are relative, in the Frobenius norm; of the gradient the largest over the layers. bido_ext is
held to what its documentation promises in the measured dtype. A rival must compute the same function:
in float64, on few rows, it must agree. How many digits its idioms (exp, one side centered, a general
inverse) leave in the measured dtype is shown beside its time, and where they leave none, tables say so.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.case import Implementation, OpCase, is_own
from benchmarks.problem import Problem
from benchmarks.registry import build


class Result(NamedTuple):
    """Value and the gradient with respect to each layer."""

    value: Tensor
    grads: tuple[Tensor, ...]


class Tolerance(NamedTuple):
    """Largest relative errors."""

    value: float
    gradient: float


OWN_TOLERANCE = {
    torch.float64: Tolerance(1e-8, 1e-8),
    torch.float32: Tolerance(1e-4, 5e-4),
    torch.bfloat16: Tolerance(5e-3, 2e-2),
    torch.float16: Tolerance(5e-3, 2e-2),
}
#: In float64: the same formula. In any other dtype: a number.
RIVAL_FORMULA = Tolerance(1e-6, 1e-6)
RIVAL_MEASURED = Tolerance(sys.float_info.max, sys.float_info.max)
FORMULA_ROWS = 32
#: How the refusal of an implementation begins that did not answer at all.
RAISED = "raised"


@dataclass(frozen=True)
class Verdict:
    """What the gate saw: relative errors, the seconds of the first (cold) call, the refusal."""

    value_error: float
    gradient_error: float
    first_call_s: float
    refusal: str | None = None


class GateError(RuntimeError):
    """bido_ext itself missed the truth: nothing is measured."""


def evaluate(function: Implementation, problem: Problem) -> Result:
    """One value and gradient."""
    value = function(problem)
    cotangent = problem.cotangent
    if cotangent is not None:
        cotangent = cotangent.to(value.device)  # the published algorithm answers on the host
    return Result(value, torch.autograd.grad(value, problem.layers, cotangent))


def truth_of(case: OpCase, problem: Problem) -> Result:
    """The float64 truth of a problem: of its rounded inputs."""
    value, grads = evaluate(case.truth, problem.to(torch.float64))
    return Result(value.detach(), grads)


def judge(name: str, case: OpCase, problem: Problem, truth: Result) -> Verdict:
    """Runs an implementation of a case and compares it with the truth."""
    if is_own(name):
        return _compare(case.implementations[name], problem, truth, OWN_TOLERANCE[_dtype(problem)])
    small = build(case.spec.with_rows(min(case.spec.n, FORMULA_ROWS)))
    sample = small.make().to(torch.float64, problem.x.device)
    formula = _compare(
        small.implementations[name], sample, truth_of(small, sample), RIVAL_FORMULA, " in float64"
    )
    if formula.refusal:
        return formula
    return _compare(case.implementations[name], problem, truth, RIVAL_MEASURED)


def _compare(
    function: Implementation, problem: Problem, truth: Result, allowed: Tolerance, where: str = ""
) -> Verdict:
    start = time.perf_counter()
    try:
        result = evaluate(function, problem)
        if result.grads[0].is_cuda:
            torch.cuda.synchronize()
    # Out of memory, a dtype torch.linalg has no kernel for, a mode without kernel on this device.
    except (RuntimeError, ValueError, MemoryError) as error:
        nothing = float("nan")
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return Verdict(nothing, nothing, nothing, f"{RAISED}{where}: {reason}")
    seconds = time.perf_counter() - start
    value = relative_error(result.value.detach(), truth.value)
    gradient = gradient_error(result.grads, truth.grads)
    refusal = None
    # Written so that NaN is refused.
    if not value <= allowed.value:
        refusal = f"value off by {value:.1e}{where}, allowed {allowed.value:.0e}"
    elif not gradient <= allowed.gradient:
        refusal = f"gradient off by {gradient:.1e}{where}, allowed {allowed.gradient:.0e}"
    return Verdict(value, gradient, seconds, refusal)


def _dtype(problem: Problem) -> torch.dtype:
    return problem.layers[0].dtype


def gradient_error(grads: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """The largest relative error of a layer."""
    errors = [relative_error(g, t) for g, t in zip(grads, truth, strict=True)]
    return max(errors) if all(e == e for e in errors) else float("nan")


def relative_error(value: Tensor, truth: Tensor) -> float:
    """|value - truth| / |truth|; the absolute error where the truth is 0."""
    difference = torch.linalg.vector_norm(value.to(truth.device, torch.float64) - truth)
    scale = torch.linalg.vector_norm(truth)
    return float(difference / scale) if scale > 0 else float(difference)

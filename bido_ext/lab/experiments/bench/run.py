# SPDX-License-Identifier: Apache-2.0
"""One benchmark: compare with float64 first, then time; the result is one JSON-able document."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

import bido_ext as bx
from bido_ext.lab.experiments.bench.contenders import eager, own, textbook
from bido_ext.lab.experiments.bench.problem import BenchProblem, make_problem
from bido_ext.lab.experiments.environment import machine_facts, package_versions
from bido_ext.ops.plan import MEASURES
from bido_ext.serving.floor import combine, floor_calls, step_floor
from bido_ext.serving.measure import MIN_ROUNDS, interleaved

#: Largest relative errors of value and gradient that bido_ext may have, by dtype.
TOLERANCES = {
    "float32": (1e-4, 5e-4),
    "float64": (1e-8, 1e-8),
    "bfloat16": (5e-3, 2e-2),
    "float16": (5e-3, 2e-2),
}
#: Up to here the n x n float64 graph of the truth is worth its memory.
MAX_ROWS = 8192
#: Which ops a measure is made of, beside one of its own name.
PARTS = {"hsic": (), "nhsic": ("gram_stack",), "coco": ("gram_stack",), "cka": ("hsic",)}
OWN, EAGER = "bido_ext", "eager"


class GateError(RuntimeError):
    """bido_ext missed the float64 truth: no time is reported."""


class Outcome(NamedTuple):
    """Value and the gradient in each layer."""

    value: Tensor
    grads: tuple[Tensor, ...]


@dataclass(frozen=True)
class BenchSettings:
    """What to measure.

    Attributes:
        measure: "hsic", "nhsic", "coco" or "cka".
        n: Samples.
        dims: Columns of X and of every layer.
        num_classes: Of the labels; 0: none, for d(X, Z) of two variables.
        dtype: Name of the features' dtype.
        threads: Of PyTorch; None: as it is.
    """

    measure: str = "nhsic"
    n: int = 256
    dims: tuple[int, ...] = (3072, 2048, 512)
    num_classes: int = 10
    dtype: str = "float32"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {self.measure!r}")
        if not 2 <= self.n <= MAX_ROWS:
            raise ValueError(
                f"n must be 2 to {MAX_ROWS}, the float64 truth is n x n, got {self.n}; "
                "python -m benchmarks.run of the repository goes beyond"
            )
        if len(self.dims) < 2 or min(self.dims) < 1:
            given = ",".join(map(str, self.dims))
            raise ValueError(f"dims must be at least two positive numbers, got {given!r}")
        if self.num_classes < 0 or (self.num_classes == 0 and len(self.dims) != 2):
            raise ValueError(
                f"classes must be positive, or 0 with exactly two dims, got {self.num_classes} "
                f"with {len(self.dims)} dims"
            )
        if self.dtype not in TOLERANCES:
            raise ValueError(f"dtype must be one of {', '.join(TOLERANCES)}, got {self.dtype!r}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be positive, got {self.threads}")


def run_bench(settings: BenchSettings, device: torch.device) -> dict[str, Any]:
    """Errors, milliseconds, multiples of the floor, the plan and what serves.

    Raises:
        GateError: bido_ext's value or gradient is off.
    """
    with _threads(settings.threads):
        return _run(settings, device)


def _run(settings: BenchSettings, device: torch.device) -> dict[str, Any]:
    dtype = getattr(torch, settings.dtype)
    problem = make_problem(settings.n, settings.dims, settings.num_classes).to(dtype, device)
    # The truth of the rounded inputs: rounding is not an implementation's error.
    truth = _evaluate(partial(textbook, settings.measure), problem.to(torch.float64))
    rows = [
        _judged(OWN, partial(own, settings.measure), problem, truth),
        _judged(EAGER, partial(eager, settings.measure), problem, truth),
    ]
    _gate(rows[0], settings)
    functions = {OWN: own, EAGER: eager}
    calls: dict[str, Callable[[], object]] = {
        row["name"]: partial(_evaluate, partial(functions[row["name"]], settings.measure), problem)
        for row in rows
        if row["note"] is None
    }
    # The floor takes its turns among them: same clock, same neighbours.
    parts = step_floor(settings.n, settings.dims[0], settings.dims[1:])
    timings = interleaved({**calls, **floor_calls(parts, dtype, device)}, device=device)
    seconds = {name: timing.median for name, timing in timings.items()}
    floor = combine(parts, seconds)
    for row in rows:
        if (taken := seconds.get(row["name"])) is not None:
            row |= {"ms": 1e3 * taken, "times_floor": taken / floor}
    return {
        **asdict(settings),
        "dims": list(settings.dims),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "rounds": MIN_ROUNDS,
        "floor_ms": 1e3 * floor,
        "rows": rows,
        "plan": _plan(settings, dtype, device),
        "serves": [
            asdict(row)
            for row in bx.backends()
            if row.device == device.type and row.op in (settings.measure, *PARTS[settings.measure])
        ],
        "machine": machine_facts(),
        "versions": {name: package_versions()[name] for name in ("bido-ext", "torch", "python")},
    }


def _evaluate(function: Callable[[BenchProblem], Tensor], problem: BenchProblem) -> Outcome:
    value = function(problem)
    return Outcome(value.detach(), torch.autograd.grad(value, problem.layers))


def _judged(
    name: str, function: Callable[[BenchProblem], Tensor], problem: BenchProblem, truth: Outcome
) -> dict[str, Any]:
    """A row without times: errors, or in ``note`` why the implementation gave no answer."""
    row: dict[str, Any] = dict.fromkeys(
        ("ms", "times_floor", "value_error", "gradient_error", "note")
    )
    try:
        outcome = _evaluate(function, problem)
    except (RuntimeError, ValueError, MemoryError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return {"name": name, **row, "note": f"cannot run: {reason}"}
    errors = [_relative(g, t) for g, t in zip(outcome.grads, truth.grads, strict=True)]
    row["value_error"] = _number(_relative(outcome.value, truth.value))
    row["gradient_error"] = _number(max(errors) if all(e == e for e in errors) else float("nan"))
    return {"name": name, **row}


def _gate(row: dict[str, Any], settings: BenchSettings) -> None:
    if row["note"] is not None:
        raise GateError(f"bido_ext {row['note']}")
    of_value, of_gradient = TOLERANCES[settings.dtype]
    for what, allowed in (("value", of_value), ("gradient", of_gradient)):
        error = row[f"{what}_error"]
        if error is None or error > allowed:
            off = "is not finite" if error is None else f"is off by {error:.1e}"
            raise GateError(
                f"the {what} of bido_ext {off}, allowed {allowed:.0e}: no time is reported"
            )


def _relative(value: Tensor, truth: Tensor) -> float:
    """|value - truth| / |truth| in the Frobenius norm; absolute where the truth is 0."""
    difference = torch.linalg.vector_norm(value.double() - truth)
    scale = torch.linalg.vector_norm(truth)
    return float(difference / scale) if scale > 0 else float(difference)


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if abs(value) < float("inf") else None


def _plan(settings: BenchSettings, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    dims = [*settings.dims, *([0] if settings.num_classes else [])]
    try:
        return asdict(bx.plan(settings.n, dims, dtype, settings.measure, None, device))
    except RuntimeError as error:  # the planner was not built; the measure runs without
        return {"regime": None, "tile": None, "workspace_bytes": None, "reason": str(error)}


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

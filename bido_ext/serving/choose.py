# SPDX-License-Identifier: Apache-2.0
"""The choice on a GPU: of the implementations that are right on this device, the fastest measured one.

At the first call of an op in a bucket (device, dtype, precision, candidates, rows and total width by powers of
two) every candidate is checked against the reference, and those that pass are timed on the arguments at hand,
forward and backward. The verdict stays on disk. Where nothing may be measured (a graph capture, deterministic
algorithms, BIDO_EXT_TUNE=0, a backward whose forward was not seen) a stored verdict serves, else the first that
passes in the order of the op's row. ``BIDO_EXT_BACKEND`` forces one; then what it lacks raises.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from bido_ext._precision import tf32_allowed
from bido_ext.serving import libraries, measure, verdicts
from bido_ext.serving.first_run import FirstRuns
from bido_ext.serving.implementations import functions_of
from bido_ext.serving.limits import features_of
from bido_ext.serving.row import (
    COMPOSITION,
    CONTRACTS,
    ROWS,
    Arguments,
    Function,
    Implementation,
    Row,
    default_of,
    named,
    row_of,
)

_log = logging.getLogger("bido_ext")
#: What serves a call of such a kind (:func:`signature`); forgotten together when there are too many.
_served: dict[tuple[Any, ...], Function] = {}
MOST_SERVED = 4096
#: Where the calls of a step are collected (bido_ext.ops.tune); None: they are not.
collected: list[tuple[str, Arguments]] | None = None
#: Seconds from which on the user is told that a first call took its time.
WORTH_TELLING = 1.0


def call(name: str, *args: Any) -> Any:
    """Calls the function ``name`` of the implementation that serves such arguments."""
    return caller_of(name)(*args)


def signature(name: str, args: Sequence[Any]) -> tuple[Any, ...]:
    """All that a choice may depend on: the layout of the features, other dtypes and constants, never values."""
    key: tuple[Any, ...] = _written_out(name)[1](*args)
    return key


def caller_of(name: str) -> Function:
    """What PyTorch's dispatcher calls for the function ``name`` on a GPU."""
    return _written_out(name)[0]


#: A call and its signature. A training step makes dozens of calls of some ten microseconds each: the loop over
#: arguments of any type, which this is without, takes as long again.
_TEMPLATE = """
def call({arguments}):
    if collected is not None:
        collected.append(({name!r}, named({name!r}, ({arguments},))))
    key = {key}
    function = _served.get(key)
    if function is None:
        function = _choose_and_keep({name!r}, ({arguments},), key)
    return function({arguments})

def signature({arguments}):
    return {key}
"""


@functools.cache
def _written_out(name: str) -> tuple[Function, Function]:
    """The template for the arguments of a schema."""
    contract = CONTRACTS[name]
    features = contract.arguments[contract.features_at]
    grouped = contract.types[contract.features_at] == "Tensor[]"
    device = f"{features}[0].device" if grouped else f"{features}.device"
    # Deterministic algorithms: then nothing is timed.
    parts = [repr(name), "tf32_allowed()", "torch.are_deterministic_algorithms_enabled()", device]
    for argument, kind in zip(contract.arguments, contract.types, strict=True):
        of_all = f" for t in {argument}]"
        if argument == features:
            layout = "(t.dtype, t.shape, t.stride())"
            parts.append(f"*[{layout}{of_all}" if grouped else layout.replace("t.", f"{features}."))
        elif kind == "Tensor":
            parts.append(f"{argument}.dtype")
        elif kind == "Tensor[]":
            parts.append(f"tuple([t.dtype{of_all})")
        else:
            parts.append(f"tuple({argument})" if kind.endswith("[]") else argument)
    made: dict[str, Function] = {}
    source = _TEMPLATE.format(
        arguments=", ".join(contract.arguments), name=name, key=f"({', '.join(parts)})"
    )
    exec(source, globals(), made)
    return made["call"], made["signature"]


def _choose_and_keep(name: str, args: Sequence[Any], key: tuple[Any, ...]) -> Function:
    arguments = named(name, args)
    device = features_of(arguments)[0].device
    function = choose(name, arguments, device)
    if not verdicts.capturing(device):
        if len(_served) >= MOST_SERVED:
            _served.clear()
        _served[key] = function
    return function


def choose(
    name: str, arguments: Arguments, device: torch.device, forced: str | None = libraries.FORCED
) -> Function:
    """The function that serves ``name`` for such arguments on ``device``."""
    row = row_of(name)
    if forced is not None:
        return _forced(name, row, "cuda" if forced == "native" else forced, arguments)
    right = right_ones(row, candidates(row, arguments), arguments, device)
    first_runs = FirstRuns(device, bucket(row.op, arguments, right, device))
    right = {name: functions for name, functions in right.items() if not first_runs.killed(name)}
    if not right:
        return default_of(name)
    key = bucket(row.op, arguments, right, device)
    times = verdicts.measured(*key)
    if times is None and len(right) > 1 and may_measure(device) and name == row.functions[0]:
        begun = time.perf_counter()
        times = times_of(row, right, arguments, device, first_runs)
        if times is not None:
            verdicts.keep_measured(times, *key)
            _tell(row.op, times, time.perf_counter() - begun)
    return right[fastest(times) if times else next(iter(right))][name]


def _tell(op: str, times: dict[str, Any], seconds: float) -> None:
    """Why a first call took its time: kernels were compiled."""
    if seconds > WORTH_TELLING:
        _log.warning(
            "bido_ext::%s: compiled and timed %s in %.1f s; %s serves. Later runs remember it.",
            op, ", ".join(times), seconds, fastest(times),
        )  # fmt: skip


def candidates(
    row: Row, arguments: Arguments, among: Sequence[Implementation] | None = None
) -> dict[str, dict[str, Function]]:
    """The implementations that are there and take the arguments, in their order.

    Args:
        among: Default: those for GPUs.
    """
    able = {}
    for implementation in row.on_gpu() if among is None else among:
        functions = functions_of(row.op, implementation.name)
        if functions and implementation.refusal(arguments) is None:
            able[implementation.name] = functions
    if row.composition and not (able and _waits(row, arguments)):
        able[COMPOSITION] = functions_of(row.op, COMPOSITION)
    return able


def _waits(row: Row, arguments: Arguments) -> bool:
    """Whether the composition would stop the host for the device."""
    return row.composition_waits and features_of(arguments)[0].device.type != "cpu"


def right_ones(
    row: Row, able: dict[str, dict[str, Function]], arguments: Arguments, device: torch.device
) -> dict[str, dict[str, Function]]:
    """Those that pass their check on the device; a composition is made of ops that are checked themselves."""
    dtypes = floating_dtypes(features_of(arguments))
    return {
        name: functions
        for name, functions in able.items()
        if name == COMPOSITION
        or all(verdicts.passes(row.op, name, functions, dtype, device) for dtype in dtypes)
    }


def bucket(
    op: str, arguments: Arguments, among: Iterable[str], device: torch.device
) -> tuple[object, ...]:
    """Calls that share a verdict: op, dtypes, TF32, rows and total width up to a power of two, device."""
    features = features_of(arguments)
    n, width = features[0].shape[0], sum(t.shape[1] for t in features if t.dim() == 2)
    dtypes = "+".join(sorted(str(d).removeprefix("torch.") for d in floating_dtypes(features)))
    return (
        op,
        dtypes,
        "tf32" if tf32_allowed() else "ieee",
        f"n <= {1 << max(0, n - 1).bit_length()}",
        f"width <= {1 << max(0, width - 1).bit_length()}",
        ROWS[op].words_of(arguments) + "+".join(among),
        verdicts.device_name(device),
    )


def floating_dtypes(features: Sequence[Tensor]) -> set[torch.dtype]:
    """Of the features; labels alone count as float32."""
    return {t.dtype for t in features if t.is_floating_point()} or {torch.float32}


def may_measure(device: torch.device) -> bool:
    """Whether candidates may be timed now."""
    return not (
        verdicts.capturing(device)
        or torch.compiler.is_compiling()
        or torch.are_deterministic_algorithms_enabled()
        or os.environ.get("BIDO_EXT_TUNE") == "0"
    )


def fastest(times: dict[str, Any]) -> str:
    """The implementation with the smallest time; words instead of a time are a failure."""
    return min((t, name) for name, t in times.items() if isinstance(t, (int, float)))[1]


def times_of(
    row: Row,
    right: dict[str, dict[str, Function]],
    arguments: Arguments,
    device: torch.device,
    first_runs: FirstRuns | None = None,
) -> dict[str, float | str] | None:
    """Times of the candidates; None where none of them ran."""
    steps = {name: step_of(row, functions, arguments) for name, functions in right.items()}
    if first_runs is not None:
        steps = first_runs.watched(steps)
    with torch.autocast(device.type, enabled=False):
        times = measure.times(steps, device)
    if first_runs is not None:
        first_runs.end()
    return times if any(isinstance(t, float) for t in times.values()) else None


def step_of(row: Row, functions: dict[str, Function], arguments: Arguments) -> measure.Step:
    """One forward and, where the op has one, its backward."""
    forward, *backward = row.functions
    values = list(arguments.values())

    def step() -> None:
        result = functions[forward](*values)
        if backward and row.backward_of is not None:
            functions[backward[0]](*row.backward_of(arguments, result))

    return step


def _forced(name: str, row: Row, implementation: str, arguments: Arguments) -> Function:
    if implementation == "reference":
        return default_of(name)
    functions = functions_of(row.op, implementation)
    known = row.get(implementation)
    why = None if known is None else known.refusal(arguments)
    if (name not in functions or known is None or why is not None) and row.composition:
        return _without_kernel(name, row, arguments)
    if name not in functions or known is None:
        raise NotImplementedError(
            f"BIDO_EXT_BACKEND: bido_ext::{name} has no {implementation} kernel. Unset it to let another "
            "implementation serve (python -m bido_ext lists them)."
        )
    if why is not None:
        raise NotImplementedError(
            f"BIDO_EXT_BACKEND: the {implementation} kernels do not take {why} (bido_ext::{name}). "
            "Unset it to let another implementation serve."
        )
    return functions[name]


def _without_kernel(name: str, row: Row, arguments: Arguments) -> Function:
    """The composition, or what does without reading values back where it does not."""
    if _waits(row, arguments):
        for form in row.implementations:
            if form.portable and form.refusal(arguments) is None:
                return functions_of(row.op, form.name)[name]
    return default_of(name)


def forget() -> None:
    """As a new process would begin, but for what is on disk."""
    _served.clear()
    verdicts.forget()

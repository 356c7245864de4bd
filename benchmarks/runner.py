# SPDX-License-Identifier: Apache-2.0
"""From a case to a record: gate, interleaved times with the floor among them, memory."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from benchmarks import isolated, own
from benchmarks.allocator import keep_freed_memory
from benchmarks.case import OWN, OpCase, is_own, mode_of
from benchmarks.gate import RAISED, GateError, Verdict, evaluate, judge, truth_of
from benchmarks.input_sets import bytes_of, how_many, rotation_of, told
from benchmarks.machine import machine_line
from benchmarks.problem import Problem
from benchmarks.results import Record
from benchmarks.rivals import FOREIGN
from benchmarks.rivals.gemm_floor import floor_calls
from bido_ext.serving.floor import combine
from bido_ext.serving.measure import MIN_ROUNDS, Timing, clock_of, interleaved


@dataclass(frozen=True)
class Settings:
    """How a case is run.

    Attributes:
        dtype: Of the features, a name of torch.
        device: "cpu" or a CUDA device.
        threads: Of torch, in this process and in its children.
        rounds, minimum_rounds: See :func:`bido_ext.serving.measure.interleaved`.
        rivals: Names to run beside bido_ext, or None for all.
        memory: Whether to measure peak memory, in a fresh process per implementation.
        times: Whether to measure times, and with them the floor.
        modes: Of bido_ext, such as "streaming"; :data:`benchmarks.registry.PLAIN_MODE` is bido_ext as
            it chooses itself. None for all.
        fresh_memory: Whether freed memory goes back to the system between calls, as it does by default:
            see :mod:`benchmarks.allocator`.
        no_gate_above: Above this n the gate, and every rival, is left out: the float64 truth and the
            rivals need more memory than the machine may have. Recorded in the record.
        say: Told what happens, one line at a time.
    """

    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 2
    rounds: int = MIN_ROUNDS
    minimum_rounds: int = MIN_ROUNDS
    rivals: Collection[str] | None = None
    memory: bool = True
    times: bool = True
    modes: Collection[str] | None = None
    no_gate_above: int | None = None
    fresh_memory: bool = False
    say: Callable[[str], None] = lambda line: None


class NothingToRunError(ValueError):
    """No implementation is left; an empty record would replace a full one."""


def run_case(case: OpCase, settings: Settings) -> Record:
    """Measures one case; see benchmarks/README.md for the record.

    Raises:
        GateError: bido_ext missed the float64 truth.
        NothingToRunError: The case has none of the modes asked for, and no rivals were.
    """
    torch.set_num_threads(settings.threads)
    kept = settings.times and not settings.fresh_memory and keep_freed_memory()
    not_gated = _why_no_gate(case, settings)
    names = _names(case, settings, gated=not_gated is None)
    if not names:
        raise NothingToRunError(f"{case.spec.name}, n = {case.spec.n}: no such mode at this size.")
    timings: dict[str, Timing] = {}
    if not_gated is None or settings.times:
        problem = case.make().to(getattr(torch, settings.dtype), settings.device)
    if not_gated is None:
        verdicts = _gate(case, problem, [name for name in names if name not in FOREIGN], settings)
    else:
        settings.say(f"  gate {not_gated}")
        verdicts = dict.fromkeys(names, UNJUDGED)
    sets_told = None
    if settings.times:
        timings = _time(case, problem, verdicts, settings)
        size = bytes_of(problem)
        sets_told = told(how_many(size, settings.device), size, settings.device)
    answers = {name: _foreign(case, name, settings) for name in names if name in FOREIGN}
    for name, answer in answers.items():
        verdicts[name] = Verdict(**answer["verdict"])
        if "timing" in answer:
            timings[name] = Timing(**answer["timing"])
    medians = {name: timing.median for name, timing in timings.items()}
    floor_s = combine(case.floor, medians) if settings.times else None
    rows = [
        _row(case, name, verdicts[name], timings.get(name), medians.get(OWN), floor_s)
        for name in names
    ]
    if settings.memory:
        for row in rows:
            if row["refusal"] is None:
                settings.say(f"  memory of {row['name']}")
                row["memory"] = _memory(case, row["name"], settings)
    return {
        "spec": case.spec.to_json(),
        "dtype": settings.dtype,
        "threads": settings.threads,
        "rounds": settings.rounds,
        "gate": not_gated or "run",
        "freed_memory": "kept" if kept else "returned",
        "clock": clock_of(settings.device) if settings.times else None,
        "input_sets": sets_told,
        "floor": {
            "what": "floor",
            "ms": None if floor_s is None else 1e3 * floor_s,
            "with_cubic_ms": (
                None if floor_s is None else 1e3 * combine(case.floor, medians, cubic=True)
            ),
            "gflop": case.flops / 1e9,
            "compulsory_bytes": case.bytes_moved,
            "parts_ms": {k: 1e3 * v for k, v in medians.items() if k.startswith("floor ")},
        },
        "rows": rows,
        "serves": own.where(settings.device),
        "machine": machine_line(settings.device),
    }


#: Of an implementation that no gate judged: no errors, and no refusal.
UNJUDGED = Verdict(float("nan"), float("nan"), float("nan"))


def _why_no_gate(case: OpCase, settings: Settings) -> str | None:
    """Why bido_ext is not compared with the truth, as the record says it; None: it is."""
    limit = settings.no_gate_above
    if limit is None or case.spec.n <= limit:
        return None
    return f"not run: n = {case.spec.n} is above --no-gate-above {limit}; no rivals, no errors"


def _names(case: OpCase, settings: Settings, gated: bool) -> list[str]:
    """The implementations to run. A rival that nobody compared with the truth proves nothing."""
    return [
        name
        for name in case.implementations
        if (is_own(name) and (settings.modes is None or mode_of(name) in settings.modes))
        or (not is_own(name) and gated and (settings.rivals is None or name in settings.rivals))
    ]


def _gate(
    case: OpCase, problem: Problem, names: list[str], settings: Settings
) -> dict[str, Verdict]:
    settings.say("  float64 truth")
    truth = truth_of(case, problem)
    verdicts = {}
    for name in names:
        settings.say(f"  gate of {name}")
        verdicts[name] = verdict = judge(name, case, problem, truth)
        cannot_run = verdict.refusal is not None and verdict.refusal.startswith(RAISED)
        # A mode that has no kernel on this device is a row without times; a wrong one stops all.
        if verdict.refusal and (name == OWN or (is_own(name) and not cannot_run)):
            raise GateError(
                f"{case.spec.name}, n = {case.spec.n}, dims {case.spec.dims}, {settings.dtype}: "
                f"{name}: {verdict.refusal}; no time is reported."
            )
    return verdicts


def _time(
    case: OpCase, problem: Problem, verdicts: dict[str, Verdict], settings: Settings
) -> dict[str, Timing]:
    # The floor takes its turns among the implementations: same clock, same neighbours.
    calls = floor_calls(case.floor, getattr(torch, settings.dtype), settings.device)
    rotation = rotation_of(problem, settings.device)
    for name, verdict in verdicts.items():
        if verdict.refusal is None:
            calls[name] = rotation.call(partial(evaluate, case.implementations[name]))
    settings.say(f"  {settings.rounds} rounds of {', '.join(calls)}")
    return interleaved(
        calls, settings.rounds, device=settings.device, minimum_rounds=settings.minimum_rounds
    )


def _foreign(case: OpCase, name: str, settings: Settings) -> dict[str, Any]:
    settings.say(f"  {name}, in a process of its own")
    rounds = {"rounds": settings.rounds, "minimum_rounds": settings.minimum_rounds}
    answer = isolated.foreign_time(
        case.spec, name, settings.dtype, settings.device, settings.threads, rounds,
        keep_freed=not settings.fresh_memory,
    )  # fmt: skip
    if "error" in answer:
        nothing = float("nan")
        return {"verdict": asdict(Verdict(nothing, nothing, nothing, answer["error"]))}
    return answer


def _memory(case: OpCase, name: str, settings: Settings) -> dict[str, Any]:
    return isolated.memory(case.spec, name, settings.dtype, settings.device, settings.threads)


def _row(
    case: OpCase,
    name: str,
    verdict: Verdict,
    timing: Timing | None,
    own_s: float | None,
    floor_s: float | None,
) -> dict[str, Any]:
    """Milliseconds, ratios and errors of one implementation; a refused one has no times."""
    row: dict[str, Any] = {"name": name, **_errors(verdict)}
    if timing is None or floor_s is None:
        return row
    row |= {
        "median_ms": 1e3 * timing.median,
        "q20_ms": 1e3 * timing.q20,
        "q80_ms": 1e3 * timing.q80,
        "repeats": timing.repeats,
        "times_floor": timing.median / floor_s,
        "gflop_per_s": case.flops / timing.median / 1e9,
    }
    if own_s is not None:
        row["times_own"] = timing.median / own_s
    return row


def _errors(verdict: Verdict) -> dict[str, Any]:
    """The verdict with null for what is not a number: JSON has no NaN."""
    return {k: None if v != v else v for k, v in asdict(verdict).items()}

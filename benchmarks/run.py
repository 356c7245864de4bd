# SPDX-License-Identifier: Apache-2.0
"""Runs benchmarks: ``python -m benchmarks.run --op hsic --n 4096 --d 512 --threads 2``.

Prints one table per shape and writes JSON. Exit code 1: bido_ext missed the truth; 2: bad arguments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import bido_step, rivals
from benchmarks.case import MODES, CaseSpec
from benchmarks.gate import GateError
from benchmarks.registry import OPS, STEP_MEASURES, build, default_specs
from benchmarks.results import Record, default_path, growth_text, save
from benchmarks.runner import NothingToRunError, Settings, run_case
from bido_ext._counted import counted
from bido_ext.serving.measure import MIN_ROUNDS

SMOKE_ROUNDS = 3
DTYPES = ("float32", "float64", "bfloat16", "float16")
EXAMPLES = """examples:
  python -m benchmarks.run --op hsic --n 4096 --d 512 --threads 2 --rounds 7
  python -m benchmarks.run --step nhsic --n 64 256 1024
  python -m benchmarks.run --op gaussian_gram --device cuda --dtype bfloat16
  python -m benchmarks.run --op hsic --n 2048 4096 8192 --d 512 --rivals
  python -m benchmarks.run --op hsic --n 32768 --d 512 --modes streaming --no-gate-above 16384 --no-times
  python -m benchmarks.run --smoke"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; says what is wrong with it in one sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description="Times bido_ext against its rivals and the floor of this machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--op", nargs="+", choices=OPS, metavar="OP", help=", ".join(OPS))
    what.add_argument(
        "--step", nargs="+", choices=STEP_MEASURES, metavar="M", help=", ".join(STEP_MEASURES)
    )
    parser.add_argument("--n", nargs="+", type=int, help="samples (default: the case's own list)")
    parser.add_argument(
        "--d", nargs="+", type=int, help="columns (ops only); of gram_stack one stack of them"
    )
    parser.add_argument(
        "--dtype", default="float32", help="float32 (default), float64, bfloat16 ..."
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default 2)")
    parser.add_argument("--rounds", type=int, help=f"at least {MIN_ROUNDS} (default)")
    parser.add_argument(
        "--rivals", nargs="*", choices=rivals.NAMES, metavar="R", help=", ".join(rivals.NAMES)
    )
    parser.add_argument("--no-memory", action="store_true", help="skip the peak memory runs")
    parser.add_argument("--no-times", action="store_true", help="skip the times and the floor")
    parser.add_argument(
        "--modes", nargs="+", choices=MODES, metavar="M", help=f"of bido_ext: {', '.join(MODES)}"
    )
    parser.add_argument(
        "--no-gate-above",
        type=int,
        metavar="N",
        help="above N samples compare nothing with float64 and run no rival; the record says so",
    )
    parser.add_argument(
        "--fresh-memory",
        action="store_true",
        help="let freed memory go back to the system, so that every call pays for its pages",
    )
    parser.add_argument("--json", type=Path, help="file (default benchmarks/results/<device>/...)")
    parser.add_argument(
        "--smoke", action="store_true", help="tiny shapes, few rounds, no file unless --json"
    )
    options = parser.parse_args(arguments)
    if not (options.op or options.step or options.smoke):
        parser.error("say what to run: --op, --step or --smoke.")
    if options.rounds is None:
        options.rounds = SMOKE_ROUNDS if options.smoke else MIN_ROUNDS
    least = SMOKE_ROUNDS if options.smoke else MIN_ROUNDS
    if options.rounds < least:
        parser.error(f"--rounds must be at least {least}, got {options.rounds}.")
    if options.threads < 1 or min([2, *(options.n or []), *(options.d or [])]) < 1:
        parser.error("--threads, --n and --d must be positive.")
    if options.d and not options.op:
        parser.error("--d goes with --op; the layers of a step are those of VGG16.")
    if options.no_times and options.no_memory:
        parser.error("--no-times and --no-memory together leave nothing to measure.")
    if options.no_gate_above is not None and options.no_gate_above < 1:
        parser.error(f"--no-gate-above must be positive, got {options.no_gate_above}.")
    if options.dtype not in DTYPES:
        parser.error(f"--dtype must be one of {', '.join(DTYPES)}, got {options.dtype!r}.")
    if reason := device_problem(options.device):
        parser.error(f"--device {options.device}: {reason}.")
    return options


def device_problem(device: str) -> str | None:
    """Why nothing can be measured on a device, or None."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().splitlines()[0].rstrip(".")
    return None


def chosen_specs(options: argparse.Namespace) -> list[CaseSpec]:
    """The cases of a command line, in the order given."""
    names = [*(options.op or []), *(f"bido_step_{m}" for m in options.step or [])]
    if options.smoke:
        every = [*OPS, *(f"bido_step_{m}" for m in STEP_MEASURES)]
        return [spec for name in names or every for spec in default_specs(name, smoke=True)]
    specs: list[CaseSpec] = []
    for name in names:
        defaults = default_specs(name)
        rows = options.n or sorted({spec.n for spec in defaults})
        if name.startswith("bido_step_"):
            specs += [bido_step.spec(name[len("bido_step_") :], n) for n in rows]
            continue
        own_dims = list(dict.fromkeys(spec.dims for spec in defaults))
        dims = _dims(name, options.d, own_dims)
        specs += [CaseSpec(name, n, d) for d in dims for n in rows]
    return specs


def _dims(
    name: str, given: Sequence[int] | None, own_dims: list[tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """Columns of the cases of an op; double_center has none."""
    if not given or own_dims == [()]:
        return own_dims
    return [tuple(given)] if name == "gram_stack" else [(d,) for d in given]


def text_table(record: Record) -> str:
    """One case as an aligned table."""
    spec, floor = record["spec"], record["floor"]
    head = f"{spec['name']}  n = {spec['n']}  d = {', '.join(map(str, spec['dims'])) or spec['n']}"
    lines = [
        f"{head}  {record['dtype']}  {counted(record['threads'], 'thread')}  {record['rounds']} rounds",
        _floor_line(floor),
    ]
    if record.get("gate", "run") != "run":
        lines.append(f"gate {record['gate']}")
    titles = [
        "",
        "ms",
        "20%",
        "80%",
        f"x {floor['what']}",
        "x bido_ext",
        "value err",
        "grad err",
        "n*n",
        "1st s",
    ]
    cells = [titles, *(_cells(row) for row in record["rows"])]
    widths = [max(len(row[i]) for row in cells) for i in range(len(titles))]
    for row in cells:
        name, *numbers = row[: len(titles)]
        padded = [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *padded, *row[len(titles) :]]).rstrip())
    return "\n".join(lines)


def _floor_line(floor: dict[str, Any]) -> str:
    if floor["ms"] is None:
        return f"no times; {floor['gflop']:.3g} GFLOP of products"
    line = f"{floor['what']} {floor['ms']:.4g} ms"
    if "gflop" not in floor:
        return line
    return f"{line} (with n^3 work {floor['with_cubic_ms']:.4g} ms), {floor['gflop']:.3g} GFLOP"


def _cells(row: dict[str, Any]) -> list[str]:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    memory = row.get("memory") or {}
    cells = [
        row["name"],
        *(number(row.get(key), ".4g") for key in ("median_ms", "q20_ms", "q80_ms")),
        *(number(row.get(key), ".2f") for key in ("times_floor", "times_own")),
        *(number(row.get(key), ".1e") for key in ("value_error", "gradient_error")),
        number(memory.get("beyond_nn"), ".2f"),
        number(row.get("first_call_s"), ".2g"),
    ]
    note = row["refusal"] or memory.get("error")
    return [*cells, f"refused: {note}" if row["refusal"] else f"memory: {note}"] if note else cells


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the chosen cases; returns the exit code."""
    options = parse(arguments)
    settings = Settings(
        dtype=options.dtype,
        device=options.device,
        threads=options.threads,
        rounds=options.rounds,
        minimum_rounds=SMOKE_ROUNDS if options.smoke else MIN_ROUNDS,
        rivals=options.rivals,
        memory=not options.no_memory,
        times=not options.no_times,
        modes=options.modes,
        no_gate_above=options.no_gate_above,
        fresh_memory=options.fresh_memory,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    failures, done = 0, []
    for spec in chosen_specs(options):
        settings.say(f"{spec.name} n = {spec.n} dims {spec.dims}")
        try:
            record = run_case(build(spec), settings)
        except (GateError, NothingToRunError) as error:
            print(f"refused: {error}", file=sys.stderr)
            failures += 1
            continue
        done.append(record)
        print(text_table(record) + "\n", flush=True)
        # Written case by case: an interrupted run keeps what it measured.
        path = options.json or (None if options.smoke else default_path(spec.name, options.device))
        if path is not None:
            save(path, spec.name if options.json is None else path.stem, [record])
    if not options.smoke and (exponents := growth_text(done)):
        print(exponents)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

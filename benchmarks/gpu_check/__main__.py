# SPDX-License-Identifier: Apache-2.0
"""Everything that needs a GPU, within a budget: steps in order of worth, each result on disk at once.

Every step runs in processes of its own with a limit of its own: a kernel that hangs or crashes costs its
step's time and nothing else. DIR then holds summary.json and at most 7 more small files. Exit code 0: all that
ran is right; 1: something is wrong; 2: it cannot start.

Example:
  python -m benchmarks.gpu_check --budget 330 --out gpu-results
  python -m benchmarks.gpu_check --budget 60 --out /tmp/rehearsal --device cpu
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_bundle import BundleError, take_bundle
from benchmarks.gpu_check.process import Ended, run_limited
from benchmarks.gpu_check.steps import STEPS, Step
from benchmarks.gpu_check.table import text_table

#: Seconds kept for the table and for ending what runs.
RESERVE = 2.5
#: A step gets at least this of what is left.
SHORTEST = 10.0
#: A command gets no less than this, or is not started: Python and PyTorch take some of it to start.
LEAST = 4.0
START = time.monotonic()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the steps; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--budget", type=float, default=780, help="seconds in all (default 780)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", default="cuda", help="cuda (default), or cpu as a rehearsal")
    names = [step.name for step in STEPS]
    parser.add_argument(
        "--steps", nargs="+", choices=names, default=names, metavar="STEP", help=", ".join(names)
    )
    options = parser.parse_args(arguments)
    try:
        note = take_bundle()
    except BundleError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    print(f"gpu_check: {note}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    # Verdicts of earlier runs must not count here, nor add to the files of DIR.
    cache = tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True)
    os.environ.setdefault("BIDO_EXT_CACHE_DIR", cache.name)
    deadline = START + options.budget - RESERVE
    steps = [step for step in STEPS if step.name in options.steps]
    summary: dict[str, Any] = {
        "budget": options.budget,
        "device": options.device,
        "libraries": note,
        "steps": {},
    }
    for index, step in enumerate(steps):
        left = deadline - time.monotonic()
        share = step.seconds / sum(s.seconds for s in steps[index:])
        limit = min(left, max(left * share, SHORTEST))
        summary["steps"][step.name] = run_step(step, options.device, options.out, limit)
        write(options.out / "summary.json", summary)
        if step.name == "facts" and summary["steps"]["facts"]["exits"] == [2]:
            print(summary["steps"]["facts"]["parts"][0]["said"], file=sys.stderr)
            return 2
    summary["seconds"] = round(time.monotonic() - START, 1)
    write(options.out / "summary.json", summary)
    print(text_table(summary, options.out), flush=True)
    return 1 if any(entry["status"] == "wrong" for entry in summary["steps"].values()) else 0


def run_step(step: Step, device: str, out: Path, limit: float) -> dict[str, Any]:
    """The commands of a step, within its limit."""
    commands = step.commands(device, out)
    end = time.monotonic() + limit
    parts: list[dict[str, Any]] = []
    left_out = 0
    for index, command in enumerate(commands):
        left = end - time.monotonic()
        if step.evenly:
            left /= len(commands) - index
        if left < LEAST:
            left_out += 1
            continue
        print(f"== {step.name}: {readable(command)}", flush=True)
        ended = run_command(command, left)
        parts.append({"command": readable(command), **vars(ended)})
        if ended.exit != 0:
            print(ended.said[-1500:], flush=True)
    exits = [part["exit"] for part in parts]
    return {
        "status": status_of(exits, left_out, len(commands)), "brings": step.brings, "limit": round(limit, 1),
        "seconds": round(sum(part["seconds"] for part in parts), 1), "left_out": left_out,
        "exits": exits, "parts": parts,
    }  # fmt: skip


def run_command(command: list[str], limit: float) -> Ended:
    """As run_limited; a program that is not there is an exit code as well."""
    try:
        return run_limited(command, limit)
    except OSError as error:
        return Ended(127, 0.0, str(error))


def status_of(exits: list[int | None], left_out: int, commands: int) -> str:
    """One word: right, wrong, cut (all that ended is right, the rest had no time), left out, needs a GPU."""
    if not commands:
        return "needs a GPU"
    if any(code not in (0, None) for code in exits):
        return "wrong"
    if not exits:
        return "left out"
    return "cut" if left_out or None in exits else "right"


def readable(command: Sequence[str]) -> str:
    """A command without the folders of this machine."""
    words = [Path(word).name if os.path.isabs(word) else word for word in command]
    return " ".join(words)


def write(path: Path, summary: dict[str, Any]) -> None:
    """Replaces the summary as a whole."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(summary, indent=1) + "\n")
    os.replace(partial, path)


if __name__ == "__main__":
    sys.exit(main())

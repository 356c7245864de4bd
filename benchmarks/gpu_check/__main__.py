# SPDX-License-Identifier: Apache-2.0
"""Everything that needs a GPU, within a budget: steps in order of worth, each result on disk at once.

Every step runs in processes of its own with a limit of its own: a kernel that hangs or crashes costs its
step's time and nothing else; time that steps leave goes to those that had too little. DIR then holds
summary.json and at most 7 more small files. Exit code 0: all that ran is right; 1: something is wrong; 2: it
cannot start.

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

from benchmarks.gpu_bundle import BundleError
from benchmarks.gpu_check.card import capability, name_of
from benchmarks.gpu_check.libraries import libraries_for
from benchmarks.gpu_check.schedule import run_steps
from benchmarks.gpu_check.steps import STEPS
from benchmarks.gpu_check.table import text_table

#: Seconds kept for the table and for ending what runs.
RESERVE = 2.5
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
    deadline = START + options.budget - RESERVE
    card = capability(options.device)
    try:
        note = libraries_for(card, deadline - time.monotonic())
    except BundleError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    print(f"gpu_check: {note}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    # Verdicts of earlier runs must not count here, nor add to the files of DIR.
    cache = tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True)
    os.environ.setdefault("BIDO_EXT_CACHE_DIR", cache.name)
    steps = [step for step in STEPS if step.name in options.steps]
    summary: dict[str, Any] = {
        "budget": options.budget,
        "device": options.device,
        "card": name_of(card) if card else None,
        "libraries": note,
        "steps": {},
    }
    no_device = ""

    def on_change(told: dict[str, Any]) -> bool:
        nonlocal no_device
        summary["steps"] = told
        write(options.out / "summary.json", summary)
        if "facts" in told and 2 in told["facts"]["exits"]:
            no_device = told["facts"]["parts"][0]["said"]
        return not no_device

    run_steps(steps, options.device, options.out, deadline, on_change)
    if no_device:
        print(no_device, file=sys.stderr)
        return 2
    summary["seconds"] = round(time.monotonic() - START, 1)
    write(options.out / "summary.json", summary)
    print(text_table(summary, options.out), flush=True)
    return 1 if any(entry["status"] == "wrong" for entry in summary["steps"].values()) else 0


def write(path: Path, summary: dict[str, Any]) -> None:
    """Replaces the summary as a whole."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(summary, indent=1) + "\n")
    os.replace(partial, path)


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Fills tables of Markdown files from the result files: ``python -m benchmarks.table [--check]``.

A table stands between ``<!-- benchmark:DEVICE/NAME -->`` and ``<!-- /benchmark -->`` and is made of
benchmarks/results/DEVICE/NAME.json. With --check nothing is written; exit code 1: a table is stale.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.case import OWN, is_own
from benchmarks.machine import ROOT
from benchmarks.results import RESULTS, Record, load
from benchmarks.rivals import NAMES
from benchmarks.wrapped import wrapped
from bido_ext._counted import counted

#: Relative error from which on a rival's result has no digit right in the measured dtype.
NO_DIGITS = 1.0
BLOCK = re.compile(r"(<!-- benchmark:(\S+) -->\n)(.*?)(<!-- /benchmark -->)", re.DOTALL)
TITLES = {
    "published": "published algorithm",
    "shared_eager": "eager",
    "compiled": "torch.compile",
    "hand_backward": "hand-ordered eager",
    "keops": "KeOps",
}


def markdown_table(records: Sequence[Record]) -> str:
    """One line per shape: times as multiples of the floor, own error and memory; then the machine."""
    names = names_in(records)
    yardstick = records[0]["floor"]["what"]
    varies = len({_dims(record) for record in records}) > 1
    titles = [
        "n",
        *(["d"] if varies else []),
        f"{yardstick}, ms",
        *(f"{TITLES.get(name, name)}, × {yardstick}" for name in names),
        "gradient error",
        "memory, n×n",
    ]
    lines = [titles, ["---:"] * len(titles)]
    for record in records:
        rows = {row["name"]: row for row in record["rows"]}
        own = rows.get(OWN, {})
        lines.append(
            [
                str(record["spec"]["n"]),
                *([_dims(record)] if varies else []),
                _number(record["floor"]["ms"], ".3g"),
                *(_ratio(rows.get(name)) for name in names),
                _number(own.get("gradient_error"), ".0e"),
                _number((own.get("memory") or {}).get("beyond_nn"), ".2f"),
            ]
        )
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{text}\n\n{wrapped(_caption(records, varies))}\n"


def names_in(records: Sequence[Record]) -> list[str]:
    """bido_ext and its modes, then the rivals that occur, in the order of the rivals' list."""
    present = list(dict.fromkeys(row["name"] for record in records for row in record["rows"]))
    return [*filter(is_own, present), *(name for name in NAMES if name in present)]


def _caption(records: Sequence[Record], varies: bool) -> str:
    machines = {
        f"{m['device']}, PyTorch {m['torch']}, bido_ext {m['bido_ext']} ({m['commit']})"
        for m in (record["machine"] for record in records)
    }
    settings = {
        f"{r['dtype']}, {counted(r['threads'], 'thread')}, {r['rounds']} rounds"
        + (f", freed memory {r['freed_memory']}" if "freed_memory" in r else "")
        for r in records
    }
    shape = "" if varies else f"d = {_dims(records[0])}; "
    return (
        f"{shape}{'; '.join(sorted(settings))}. {'; '.join(sorted(machines))}. Medians; bido_ext's "
        "largest relative gradient error against float64; its peak memory beyond inputs and "
        f"gradients in float32 n×n matrices.{_within_rounds(records)}"
    )


def _within_rounds(records: Sequence[Record]) -> str:
    """What the shared yardstick of a round says, where it was timed twice a round."""
    said = []
    for record in records:
        if control := record.get("control"):
            rows = {row["name"]: row for row in record["rows"]}
            named = {**rows, control["what"]: control}
            ratios = ", ".join(
                f"{name} {row['paired_ratio']:.3f} [{low:.3f}, {high:.3f}]"
                for name, row in named.items()
                if "paired_ratio" in row
                for low, high in [row["paired_ratio_95"]]
            )
            said.append(
                f" Times {record['floor']['what']} of the same round, median [95 %]: {ratios}."
            )
    return "".join(said)


def _dims(record: Record) -> str:
    return ", ".join(map(str, record["spec"]["dims"])) or "n"


def _ratio(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    if row["refusal"]:
        return "refused"
    wrong = max(row.get(key) or 0 for key in ("value_error", "gradient_error")) >= NO_DIGITS
    return _number(row.get("times_floor"), ".2f") + (" (wrong)" if wrong else "")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def filled(text: str, results: Path = RESULTS) -> str:
    """A Markdown text with every table made anew.

    Raises:
        ValueError: A marker names a result file that is missing or has no records.
    """

    def fill(match: re.Match[str]) -> str:
        start, name, _, end = match.groups()
        path = results / f"{name}.json"
        if not path.exists():
            raise ValueError(f"the marker benchmark:{name} has no result file {name}.json.")
        records = load(path)
        if not records:
            raise ValueError(f"{name}.json has no records.")
        return f"{start}{markdown_table(records)}{end}"

    return BLOCK.sub(fill, text)


def stale(paths: Sequence[Path], check: bool, results: Path = RESULTS) -> list[Path]:
    """The files whose tables differ from the results; unless ``check``, they are rewritten."""
    changed = []
    for path in paths:
        text = path.read_text()
        new = filled(text, results)
        if new == text:
            continue
        changed.append(path)
        if not check:
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            partial.write_text(new)
            os.replace(partial, path)
    return changed


def main(arguments: Sequence[str] | None = None) -> int:
    """Fills or checks; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument(
        "files", nargs="*", type=Path, help="default: README.md, docs/*.md, benchmarks/README.md"
    )
    parser.add_argument("--check", action="store_true", help="write nothing, fail if stale")
    options = parser.parse_args(arguments)
    paths = options.files or [
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        ROOT / "benchmarks" / "README.md",
    ]
    try:
        changed = stale(paths, options.check)
    except (OSError, ValueError) as error:
        print(f"benchmarks.table: {error}", file=sys.stderr)
        return 2
    for path in changed:
        print(f"{path.name}: {'stale' if options.check else 'updated'}")
    return 1 if options.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())

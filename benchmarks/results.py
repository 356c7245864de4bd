# SPDX-License-Identifier: Apache-2.0
"""The result files: benchmarks/results/<device>/<name>.json, the latest record of every shape.

    {"format": "bido_ext.benchmark", "version": 1, "name": "hsic", "records": [...], "growth": [...]}

A record holds one case: spec, dtype, threads, machine line, floor, whether the gate ran, and a row per
implementation (see benchmarks/runner.py). ``growth`` holds fitted exponents of time and memory in n, one
set for every dims, dtype and number of threads of the file. History is git's.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, device_slug
from bido_ext._counted import counted

FORMAT = "bido_ext.benchmark"
VERSION = 1
RESULTS = ROOT / "benchmarks" / "results"

Record = dict[str, Any]


def default_path(name: str, device: str) -> Path:
    """Where the results of a benchmark on a device are kept."""
    return RESULTS / device_slug(device) / f"{name}.json"


def load(path: Path) -> list[Record]:
    """The records of a file.

    Raises:
        ValueError: The file is something else; nothing is overwritten then.
    """
    try:
        data = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None
    if not isinstance(data, dict) or (data.get("format"), data.get("version")) != (FORMAT, VERSION):
        raise ValueError(f"{path} is not a {FORMAT} file of version {VERSION}.")
    return data["records"]


def save(path: Path, name: str, new: Sequence[Record]) -> None:
    """Merges records into a file, atomically: a record of the same shape is replaced."""
    records = {key(record): record for record in (load(path) if path.exists() else [])}
    records |= {key(record): record for record in new}
    ordered = [records[k] for k in sorted(records)]
    data = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "growth": growth(ordered),
        "records": ordered,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(data, indent=1) + "\n")
    os.replace(partial, path)


def key(record: Record) -> tuple[Any, ...]:
    """What makes two records the same measurement."""
    spec = record["spec"]
    return (spec["name"], tuple(spec["dims"]), record["dtype"], record["threads"], spec["n"])


def growth(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Exponents p of time ~ n^p and memory ~ n^p, per implementation, over records that differ in n
    only; the floor's exponent stands beside them. At least two n are needed. An implementation that
    occurs in some of the records only (streaming, refused rivals) is fitted over those: ``n`` holds the
    n of the times, ``memory_n`` those of the memory.
    """
    groups: dict[Any, list[Record]] = {}
    for record in records:
        groups.setdefault(repr(key(record)[:-1]), []).append(record)
    fits = []
    for group in groups.values():
        if len(group) < 2:
            continue
        n = [record["spec"]["n"] for record in group]
        common = {key: group[0][key] for key in ("dtype", "threads")}
        common["dims"] = group[0]["spec"]["dims"]
        floor = [record["floor"]["ms"] for record in group]
        fits.append({"name": "floor", **common, **_fit(n, floor, [None] * len(n))})
        for name in dict.fromkeys(row["name"] for record in group for row in record["rows"]):
            rows = [_row(record, name) for record in group]
            times = [row.get("median_ms") for row in rows]
            sizes = [(row.get("memory") or {}).get("growth_bytes") for row in rows]
            fits.append({"name": name, **common, **_fit(n, times, sizes)})
    return fits


def growth_text(records: Sequence[Record]) -> str:
    """The fitted exponents as lines to print; empty where no two records differ in n only."""
    return "\n".join(
        f"{fit['name']}, d = {', '.join(map(str, fit['dims'])) or 'n'}, {fit['dtype']}, "
        f"{counted(fit['threads'], 'thread')}: time {_power(fit['time'])}, memory {_power(fit['memory'])}"
        for fit in growth(records)
    )


def _power(exponent: float | None) -> str:
    return "not fitted" if exponent is None else f"~ n^{exponent:.2f}"


def _fit(
    n: Sequence[int], times: Sequence[float | None], sizes: Sequence[float | None]
) -> dict[str, Any]:
    return {
        "n": [a for a, b in zip(n, times, strict=True) if b],
        "time": exponent(n, times),
        "memory_n": [a for a, b in zip(n, sizes, strict=True) if b],
        "memory": exponent(n, sizes),
    }


def exponent(n: Sequence[int], values: Sequence[float | None]) -> float | None:
    """Least-squares slope of log value over log n; None with fewer than two positive values."""
    points = [(math.log(a), math.log(b)) for a, b in zip(n, values, strict=True) if b]
    if len(points) < 2:
        return None
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else None


def _row(record: Record, name: str) -> dict[str, Any]:
    return next((row for row in record["rows"] if row["name"] == name), {})

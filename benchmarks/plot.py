# SPDX-License-Identifier: Apache-2.0
"""Draws time and memory against n: ``python -m benchmarks.plot results/<device>/hsic.json --d 512``.

Both axes are logarithmic; the legend gives the fitted exponents of n.

Needs matplotlib (extra "lab").
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.case import is_own
from benchmarks.results import Record, growth, load
from benchmarks.table import TITLES, names_in
from bido_ext._counted import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MIB = 2**20


def draw(records: Sequence[Record]) -> Figure:
    """Left: seconds with 20 % and 80 % quantiles, and the floor; right: peak growth in MiB."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    times, memory = figure.subplots(1, 2)
    fits = {fit["name"]: fit for fit in growth(records)}
    for name in (names := names_in(records)):
        style = _style(name, names.index(name))
        rows = [(r["spec"]["n"], row) for r in records for row in r["rows"] if row["name"] == name]
        style["label"] = _label(name, fits.get(name), "time")
        _draw_times(times, style, [(n, row) for n, row in rows if "median_ms" in row])
        sized = [
            (n, row["memory"]) for n, row in rows if "growth_bytes" in (row.get("memory") or {})
        ]
        # A log axis has no place for growth that vanished in memory the allocator already had.
        style["label"] = _label(name, fits.get(name), "memory")
        _draw_memory(memory, style, [(n, m) for n, m in sized if m["growth_bytes"] > 0])
    n = [record["spec"]["n"] for record in records]
    timed = [r for r in records if r["floor"]["ms"] is not None]  # memory-only records have none
    if timed:
        floor = [r["floor"]["ms"] / 1e3 for r in timed]
        label = _label(timed[0]["floor"]["what"], fits.get("floor"), "time")
        rows_of = [r["spec"]["n"] for r in timed]
        times.plot(rows_of, floor, color="black", linestyle="--", label=label)
    square = [4 * rows**2 / MIB for rows in n]
    memory.plot(n, square, color="black", linestyle="--", label="one n×n float32, n^2")
    spec, machine = records[0]["spec"], records[0]["machine"]
    dims = ", ".join(map(str, spec["dims"])) or "n"
    times.set_title(f"{spec['name']}, d = {dims}: time of value + gradient", fontsize=9)
    memory.set_title("peak memory beyond the inputs", fontsize=9)
    for axes, label in ((times, "seconds"), (memory, "MiB")):
        axes.set(xscale="log", yscale="log", xlabel="n", ylabel=label)
        axes.set_xticks(n, map(str, n))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.supxlabel(
        f"{machine['device']}, {counted(records[0]['threads'], 'thread')}, {records[0]['dtype']}, "
        f"PyTorch {machine['torch']}, commit {machine['commit']}",
        fontsize=7,
    )
    return figure


def _style(name: str, index: int) -> dict[str, Any]:
    return {
        "color": f"C{index}",
        "linewidth": 2.5 if is_own(name) else 1.2,
        "marker": "o",
        "markersize": 4,
    }


def _label(name: str, fit: dict[str, Any] | None, of: str) -> str:
    """The name and, where two n are there, the exponent, such as "bido_ext, n^2.01"."""
    title = TITLES.get(name, name)
    slope = None if fit is None else fit[of]
    return title if slope is None else f"{title}, n^{slope:.2f}"


def _draw_times(axes: Axes, style: dict[str, Any], rows: list[tuple[int, dict[str, Any]]]) -> None:
    if not rows:
        return
    median = [row["median_ms"] / 1e3 for _, row in rows]
    low = [(row["median_ms"] - row["q20_ms"]) / 1e3 for _, row in rows]
    high = [(row["q80_ms"] - row["median_ms"]) / 1e3 for _, row in rows]
    axes.errorbar([n for n, _ in rows], median, yerr=(low, high), capsize=2, **style)


def _draw_memory(axes: Axes, style: dict[str, Any], rows: list[tuple[int, dict[str, Any]]]) -> None:
    if rows:
        axes.plot([n for n, _ in rows], [m["growth_bytes"] / MIB for _, m in rows], **style)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws one file; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__)
    parser.add_argument("file", type=Path, help="a result file")
    parser.add_argument("--d", type=int, help="columns, where the file has several")
    parser.add_argument("--out", type=Path, help="picture (default: beside the file, .png)")
    options = parser.parse_args(arguments)
    try:
        records = [r for r in load(options.file) if options.d in (None, *r["spec"]["dims"][:1])]
    except (OSError, ValueError) as error:
        print(f"benchmarks.plot: {error}", file=sys.stderr)
        return 2
    groups = {(tuple(r["spec"]["dims"]), r["dtype"], r["threads"]) for r in records}
    if len(groups) != 1:
        print(
            f"benchmarks.plot: one curve per implementation needs one set of dims, dtype and threads; "
            f"{options.file.name} has {len(groups)} that fit: choose with --d.",
            file=sys.stderr,
        )
        return 2
    out = options.out or options.file.with_suffix(".png")
    draw(records).savefig(out, dpi=150)
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

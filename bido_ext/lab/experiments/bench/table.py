# SPDX-License-Identifier: Apache-2.0
"""The result of a benchmark as text."""

from __future__ import annotations

from typing import Any

from bido_ext._counted import counted
from bido_ext.lab.report.grid import grid

HEADER = ("", "ms", "x floor", "value error", "gradient error")


def bench_table(result: dict[str, Any]) -> str:
    """Settings, one line per implementation and for the floor, the plan, what serves."""
    n, dims, classes = result["n"], result["dims"], result["num_classes"]
    labels = f", labels of {classes} classes" if classes else ""
    lines = [_cells(row) for row in result["rows"]]
    lines.append(("floor", f"{result['floor_ms']:.4g}", "1.00", "", ""))
    notes = [f"{row['name']} {row['note']}" for row in result["rows"] if row["note"]]
    plan = result["plan"]
    if plan["regime"] is None:
        planned = f"none: {plan['reason']}"
    else:
        tile = f", tiles of {plan['tile']} rows" if plan["tile"] else ""
        planned = f"{plan['regime']}{tile}, {plan['workspace_bytes']:,} bytes; {plan['reason']}"
    return "\n".join(
        [
            f"{result['measure']}, value + gradient: n = {n}, d = {', '.join(map(str, dims))}{labels}; "
            f"{result['dtype']}, {result['device']}, {counted(result['threads'], 'thread')}, "
            f"medians of {counted(result['rounds'], 'round')}",
            "",
            grid(HEADER, lines),
            *notes,
            "",
            f"plan    {planned}",
            *(
                f"serves  {row['op']}: {row['implementation']} ({row['reason']})"
                for row in result["serves"]
            ),
        ]
    )


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    def number(key: str, form: str) -> str:
        return "-" if row[key] is None else format(row[key], form)

    return (
        row["name"],
        number("ms", ".4g"),
        number("times_floor", ".2f"),
        number("value_error", ".1e"),
        number("gradient_error", ".1e"),
    )

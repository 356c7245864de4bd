# SPDX-License-Identifier: Apache-2.0
"""The short table at the end of gpu_check: what each step brought, and what is wrong."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any


def text_table(summary: dict[str, Any], out: Path) -> str:
    """One line a step, then the kernels that are wrong."""
    lines = [f"gpu_check: {summary['seconds']} s of {summary['budget']:g} s on {summary['device']}"]
    lines.append(f"  {summary['libraries']}")
    for name, step in summary["steps"].items():
        cut = sum(code is None for code in step["exits"])
        more = f"; {cut} stopped at the limit" if cut else ""
        more += f"; {step['left_out']} commands had no time" if step["left_out"] else ""
        lines.append(
            f"  {name:<10} {step['status']:<12} {step['seconds']:>6} s  {step['brings']}{more}"
        )
    return "\n".join([*lines, *_verdicts(out / "right.jsonl")][:55])


def _verdicts(path: Path) -> list[str]:
    if not path.exists():
        return []
    checks = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    # A command that had a second turn did its first checks twice.
    keys = ("op", "implementation", "dtype", "precision")
    rows = list({tuple(row[key] for key in keys): row for row in checks}.values())
    counts = Counter(row["implementation"] for row in rows if row["verdict"] == "right")
    told = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    lines = [f"  right against float64: {told or 'none'} of {len(rows)} checks"]
    return lines + [
        f"  WRONG {row['implementation']} {row['op']} {row['dtype']} {row['precision']}: {row['said']}"
        for row in rows
        if row["verdict"] == "wrong"
    ]

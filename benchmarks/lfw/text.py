# SPDX-License-Identifier: Apache-2.0
"""How numbers and names are written in the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.lfw.networks import TAPS

LABELS = {"none": "no defence", "mid": "MID", "bido-hsic": "BiDO-HSIC", "bido-coco": "BiDO-COCO"}
SYMBOLS = {"lambda_x": "λx", "lambda_y": "λy", "beta": "β"}


def weights(row: Mapping[str, Any]) -> str:
    """The weights of a defence, and its layers where they are not all five."""
    given = [f"{SYMBOLS[key]} {value:g}" for key, value in row["weights"].items()]
    taps = row.get("taps", TAPS)
    return ", ".join([*given, *(taps if len(taps) < len(TAPS) else ())]) or "–"


def interval(found: Mapping[str, Any]) -> str:
    """Attack accuracy with its 95 % interval."""
    return (
        f"{percent(found['attack_accuracy'])} "
        f"[{100 * found['ci_low']:.1f}, {100 * found['ci_high']:.1f}]"
    )


def percent(fraction: float) -> str:
    """A fraction in percent."""
    return f"{100 * fraction:.1f} %"


def mean_and_range(values: Sequence[float]) -> str:
    """Mean in percent, and the range over seeds where there are several."""
    mean = percent(sum(values) / len(values))
    if len(values) == 1:
        return mean
    return f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def markdown(header: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> str:
    """A table."""
    rule = tuple("---" for _ in header)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))

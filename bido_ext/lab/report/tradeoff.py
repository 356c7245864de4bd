# SPDX-License-Identifier: Apache-2.0
"""Attack accuracy at equal natural accuracy, and the area under the trade-off curve.

A defence that lowers both accuracies has shown nothing until it is held against an undefended model
that is as inaccurate.  The controls are the undefended model and the same training stopped early;
between two of them attack accuracy is interpolated linearly over natural accuracy.  The intervals
resample the attacked identities, the same for every model (10,000 draws): they say what other
identities would give, not what another training would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bido_ext.lab.judging.interval import BOOTSTRAP_DRAWS
from bido_ext.lab.report.results import Results, Row


@dataclass(frozen=True)
class AtEqualAccuracy:
    """One defended model beside the undefended one of its natural accuracy.

    Attributes:
        name: Of the row.
        natural_accuracy, attack_accuracy: Of the row.
        control: Attack accuracy of the controls there; None outside of what they cover.
        difference: ``attack_accuracy`` minus ``control``; below 0 the defence protects.
        ci_low, ci_high: 95% interval of the difference; None with one identity.
    """

    name: str
    natural_accuracy: float
    attack_accuracy: float
    control: float | None = None
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None


@dataclass(frozen=True)
class Area:
    """Mean attack accuracy of a defence's curve over natural accuracies ``low`` to ``high``.

    A curve joins the defence's rows by straight lines and begins at the undefended model, which is
    the defence at weight 0.  ``control`` is the same of the controls, ``difference`` the defence's
    minus that, each over the range that both curves cover.

    Attributes:
        defence, low, high: What and where.
        area, ci_low, ci_high: The mean height, with its 95% interval (None with one identity).
        control, difference, difference_ci_low, difference_ci_high: As ``area``.
    """

    defence: str
    low: float
    high: float
    area: float
    ci_low: float | None
    ci_high: float | None
    control: float
    difference: float
    difference_ci_low: float | None
    difference_ci_high: float | None


@dataclass(frozen=True)
class Tradeoff:
    """Both, for all rows of a run."""

    at_equal_accuracy: tuple[AtEqualAccuracy, ...]
    areas: tuple[Area, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def tradeoff_of(results: Results, *, seed: int = 0) -> Tradeoff:
    """What the rows of a run say at equal natural accuracy; ``seed`` is of the resampling."""
    controls = [row for row in results.rows if row.defence == "none"]
    defended = [row for row in results.rows if row.defence != "none"]
    draws = _Draws(results.rows, seed)
    points = tuple(_at_equal(row, controls, draws) for row in defended)
    base = results.undefended
    names = dict.fromkeys(row.defence for row in defended)
    areas = []
    for name in names if base is not None else ():
        own = [base, *(row for row in defended if row.defence == name)]
        area = _area(name, own, controls, draws)  # type: ignore[arg-type]
        if area is not None:
            areas.append(area)
    return Tradeoff(points, tuple(areas))


def at_accuracy(naturals: Tensor, heights: Tensor, wanted: float) -> Tensor | None:
    """Height of a curve of straight lines at one natural accuracy.

    Args:
        naturals: (p,) natural accuracies, in any order; equal ones are averaged.
        heights: (p, ...) attack accuracies there.
        wanted: Where.

    Returns:
        (...), or None outside of the points.
    """
    x, y = _curve(naturals, heights)
    if not float(x[0]) <= wanted <= float(x[-1]):
        return None
    right = min(int(torch.searchsorted(x, torch.tensor(wanted, dtype=x.dtype))), len(x) - 1)
    left = max(right - 1, 0)
    width = float(x[right] - x[left])
    share = 0.0 if width == 0 else (wanted - float(x[left])) / width
    return y[left] + share * (y[right] - y[left])


def mean_height(naturals: Tensor, heights: Tensor, low: float, high: float) -> Tensor:
    """Area under a curve of straight lines from ``low`` to ``high``, over their distance.

    Args:
        naturals, heights: As of ``at_accuracy``.
        low, high: Within the points, low below high.
    """
    x, y = _curve(naturals, heights)
    ends = [at_accuracy(x, y, end) for end in (low, high)]
    assert ends[0] is not None
    assert ends[1] is not None
    between = (x > low) & (x < high)
    at = torch.cat([x.new_tensor([low]), x[between], x.new_tensor([high])])
    height = torch.cat([ends[0][None], y[between], ends[1][None]])
    return torch.trapezoid(height.movedim(0, -1), at) / (high - low)


def _curve(naturals: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
    x, index = naturals.double().unique(sorted=True, return_inverse=True)
    sums = torch.zeros(len(x), *heights.shape[1:], dtype=torch.float64)
    sums.index_add_(0, index, heights.double())
    return x, sums / index.bincount().view(-1, *[1] * (heights.dim() - 1))


class _Draws:
    """Attack accuracy of each row, as measured and under each draw of identities."""

    def __init__(self, rows: Sequence[Row], seed: int) -> None:
        classes = rows[0].attack.classes
        alike = all(row.attack.classes == classes for row in rows)
        self.drawn: dict[str, Tensor] | None = None
        if not alike or len(classes) < 2:
            return
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(classes), (BOOTSTRAP_DRAWS, len(classes)), generator=generator)
        self.drawn = {}
        for row in rows:
            by_class = [one.attack_accuracy for one in row.attack.per_class]
            self.drawn[row.name] = torch.tensor(by_class, dtype=torch.float64)[chosen].mean(1)

    def heights(self, rows: Sequence[Row]) -> Tensor:
        """(rows, 1 + draws), the measured one first."""
        measured = torch.tensor([[row.attack.attack_accuracy] for row in rows]).double()
        if self.drawn is None:
            return measured
        return torch.cat([measured, torch.stack([self.drawn[row.name] for row in rows])], 1)


def _at_equal(row: Row, controls: Sequence[Row], draws: _Draws) -> AtEqualAccuracy:
    known = AtEqualAccuracy(row.name, row.natural_accuracy, row.attack.attack_accuracy)
    found = None
    if len(controls) > 1:
        found = at_accuracy(_naturals(controls), draws.heights(controls), row.natural_accuracy)
    if found is None:
        return known
    difference = draws.heights([row])[0] - found
    return AtEqualAccuracy(
        known.name, known.natural_accuracy, known.attack_accuracy, float(found[0]),
        float(difference[0]), *_interval(difference),
    )  # fmt: skip


def _area(name: str, own: list[Row], controls: list[Row], draws: _Draws) -> Area | None:
    spans = [_naturals(rows) for rows in (own, controls)]
    low = max(float(span.min()) for span in spans)
    high = min(float(span.max()) for span in spans)
    if not low < high:
        return None
    mine, theirs = (
        mean_height(span, draws.heights(rows), low, high)
        for span, rows in zip(spans, (own, controls), strict=True)
    )
    return Area(
        name, low, high, float(mine[0]), *_interval(mine), float(theirs[0]),
        float((mine - theirs)[0]), *_interval(mine - theirs),
    )  # fmt: skip


def _naturals(rows: Sequence[Row]) -> Tensor:
    return torch.tensor([row.natural_accuracy for row in rows], dtype=torch.float64)


def _interval(values: Tensor) -> tuple[float | None, float | None]:
    """95% percentiles of the draws, which follow the measured value."""
    if len(values) == 1:
        return None, None
    low, high = values[1:].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def tradeoff_text(results: Results, tradeoff: Tradeoff) -> str:
    """A few lines for the terminal; empty if no row is defended, or nothing is a control."""
    if sum(row.defence == "none" for row in results.rows) < 2:
        return ""
    names = {row.name: f"{row.label} ({row.weights_text})" for row in results.rows}
    labels = {row.defence: row.label for row in results.rows}
    lines = []
    for point in tradeoff.at_equal_accuracy:
        at = f"{names[point.name]} at {_percent(point.natural_accuracy, 2)} natural accuracy:"
        if point.control is None or point.difference is None:
            lines.append(f"{at} no control is that (in)accurate")
            continue
        lines.append(
            f"{at} attack {_percent(point.attack_accuracy)}, undefended {_percent(point.control)}, "
            f"difference {_points(point.difference, point.ci_low, point.ci_high)}"
        )
    for area in tradeoff.areas:
        lines.append(
            f"{labels[area.defence]}, mean over {_percent(area.low, 2)} to "
            f"{_percent(area.high, 2)}: attack {_percent(area.area)}, undefended "
            f"{_percent(area.control)}, difference "
            f"{_points(area.difference, area.difference_ci_low, area.difference_ci_high)}"
        )
    if not lines:
        return ""
    head = "At equal natural accuracy (undefended: stopped early; interval: over identities)"
    return "\n".join([head, *(f"  {line}" for line in lines)])


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}%"


def _points(value: float, low: float | None, high: float | None) -> str:
    told = f"{100 * value:+.1f} points"
    return told if low is None or high is None else f"{told} [{100 * low:+.1f}, {100 * high:+.1f}]"

# SPDX-License-Identifier: Apache-2.0
"""Counting: how often the reconstructions of each defence were called the most similar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bido_ext.lab.judging import wilson_interval
from bido_ext.lab.report.grid import grid
from bido_ext.lab.study.answers import Answers
from bido_ext.lab.study.build import DEFAULT_CLASSES
from bido_ext.lab.study.key import Study


@dataclass(frozen=True)
class DefenceCount:
    """One defence.

    Attributes:
        defence: Its name, None for "none of them".
        selected: Answers of all participants that chose it: user-selected similar samples.
        share: ``selected`` / judgements.
        ci_low, ci_high: 95% Wilson interval of ``share``, every judgement one trial.
    """

    defence: str | None
    selected: int
    share: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True)
class Score:
    """The outcome of a study.

    Attributes:
        study: Hash of the study.
        classes: Identities that count, the first of the study.
        participants: Files.
        judgements: Answers that count; ``unanswered`` were left open.
        counts: One for each defence and one for "none of them".
        by_participant: participant -> defence ("" for none of them) -> selected.
    """

    study: str
    classes: int
    participants: int
    judgements: int
    unanswered: int
    counts: tuple[DefenceCount, ...]
    by_participant: dict[str, dict[str, int]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def score(
    answers: Mapping[Path, Answers], *, study: Study | None = None, classes: int = DEFAULT_CLASSES
) -> Score:
    """Count the choices of all participants on the first ``classes`` identities.

    Args:
        answers: File -> its content (the file names the culprit in errors).
        study: The study that all must belong to; None takes that of the first file.
        classes: Identities that count; a smaller study counts as a whole.

    Raises:
        ValueError: If a file answers another study, a participant comes twice, nothing was
            answered, or ``classes`` is below 1.
    """
    if classes < 1:
        raise ValueError(f"classes must be at least 1, got {classes}")
    if not answers:
        raise ValueError("answers must name at least one file, got none")
    expected = study or next(iter(answers.values())).study
    _check(answers, expected)
    labels = [item.label for item in expected.items][:classes]
    by_participant = {
        one.participant: Counter(one.choices[label] for label in labels if label in one.choices)
        for one in answers.values()
    }
    total: Counter[str | None] = sum(by_participant.values(), Counter())
    judgements = total.total()
    if judgements == 0:
        raise ValueError(f"answers must hold an answer on the first {len(labels)} identities")
    counts = tuple(
        DefenceCount(
            name, total[name], total[name] / judgements, *wilson_interval(total[name], judgements)
        )
        for name in (*expected.defences, None)
    )
    return Score(
        study=expected.digest,
        classes=len(labels),
        participants=len(answers),
        judgements=judgements,
        unanswered=len(answers) * len(labels) - judgements,
        counts=counts,
        by_participant={
            participant: {name or "": chosen[name] for name in (*expected.defences, None)}
            for participant, chosen in by_participant.items()
        },
    )


def _check(answers: Mapping[Path, Answers], expected: Study) -> None:
    seen: dict[str, Path] = {}
    for path, one in answers.items():
        if one.study.digest != expected.digest:
            raise ValueError(
                f"{path} answers another study (hash {one.study.digest[:12]}, expected "
                f"{expected.digest[:12]})"
            )
        if one.participant in seen:
            raise ValueError(
                f"{path} and {seen[one.participant]} are of the same participant "
                f"({one.participant}): give one of them"
            )
        seen[one.participant] = path


def score_table(result: Score) -> str:
    """The counts as text."""
    lines = [
        (
            count.defence or "(none of them)",
            str(count.selected),
            f"{100 * count.share:.1f}% [{100 * count.ci_low:.1f}, {100 * count.ci_high:.1f}]",
        )
        for count in result.counts
    ]
    open_ = f", {result.unanswered} unanswered" if result.unanswered else ""
    return (
        grid(("defence", "selected as most similar", "share [95% CI]"), lines)
        + f"\n\n{result.judgements} judgements of {result.participants} "
        + f"participant{'s' if result.participants != 1 else ''} on {result.classes} "
        + f"identities{open_}; study {result.study[:12]}"
    )

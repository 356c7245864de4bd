# SPDX-License-Identifier: Apache-2.0
"""The file that a participant downloads, format ``bido_ext.study_answers`` version 1.

format, version     "bido_ext.study_answers", 1
study               the whole ``study.json`` of the page, so that the file can be scored alone
participant         random, made by the page; tells two files of one person from two people
started, saved      UTC times, ISO 8601
complete            whether every item is answered
answers             one for each answered item: {label, choice, defence, seconds}; choice 0 (defence
                    null) means "none of them", k the k-th picture
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bido_ext.lab.study.key import Study

FORMAT, VERSION = "bido_ext.study_answers", 1


@dataclass(frozen=True)
class Answers:
    """What one participant said.

    Attributes:
        study: The study of the page.
        participant: As the page made it up.
        choices: Label -> name of the chosen defence, or None for "none of them".
    """

    study: Study
    participant: str
    choices: dict[int, str | None]


def read_answers(path: Path) -> Answers:
    """Read and check a participant's file.

    Raises:
        ValueError: If it is not such a file, was changed, or contradicts its own study.
        FileNotFoundError: If there is no such file.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return _answers(document)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _answers(document: Any) -> Answers:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f'answers must be a JSON object with "format": "{FORMAT}"')
    if document.get("version") != VERSION:
        raise ValueError(f"answers must have version {VERSION}, got {document.get('version')}")
    study = Study.from_dict(document.get("study"))
    items = {item.label: item for item in study.items}
    choices: dict[int, str | None] = {}
    try:
        participant = str(document["participant"])
        for answer in document["answers"]:
            label, choice = answer["label"], answer["choice"]
            if label not in items or label in choices:
                raise ValueError(f"answers must name each label once, got {label!r}")
            if choice not in range(len(study.defences) + 1):
                raise ValueError(
                    f"choice must lie in 0..{len(study.defences)}, label {label} has {choice!r}"
                )
            name = None if choice == 0 else study.defences[items[label].order[choice - 1]]
            if answer["defence"] != name:
                raise ValueError(
                    f"choice {choice} of label {label} stands for {name}, the answer says "
                    f"{answer['defence']}"
                )
            choices[label] = name
    except (KeyError, TypeError) as error:
        raise ValueError(f"the answers lack a field or have a wrong one: {error}") from None
    return Answers(study, participant, choices)

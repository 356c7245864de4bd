# SPDX-License-Identifier: Apache-2.0
"""Rows of an earlier run that stay as they are, so that a table grows without being run again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SAME = ("data", "judge", "chance", "target")  # of both documents


def kept_rows(path: Path, facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of a results file by name, if it was made with the data, judge and prior of ``facts``.

    The prior is compared by its configuration and by ``chance``: what the judge says of its images.
    Each row says when it was written.  An attack with other settings is left out of its row.

    Raises:
        ValueError: If the file was made with another data set, judge, prior or training.
    """
    if not path.is_file():
        return {}
    document = json.loads(path.read_text(encoding="utf-8"))
    facts = json.loads(json.dumps(facts))  # tuples and lists compare alike
    prior = [{**d["prior"], "seconds": None} for d in (document, facts)]
    changed = [name for name in SAME if document[name] != facts[name]]
    if changed or prior[0] != prior[1]:
        raise ValueError(
            f"keep: {path} was made with another {(changed or ['prior'])[0]}, no row of it can stay"
        )
    rows: dict[str, dict[str, Any]] = {}
    for row in document["rows"]:
        attacks = {
            name: found
            for name, found in row["attacks"].items()
            if document["attacks"].get(name) == facts["attacks"].get(name)
        }
        written = row.get("written", document["written"])
        rows[row["name"]] = {**row, "attacks": attacks, "written": written}
    return rows

# SPDX-License-Identifier: Apache-2.0
"""``study.json``, format ``bido_ext.study`` version 1: what the page shows, and where.

format, version     "bido_ext.study", 1
hash                SHA-256 over all the rest; answers carry it
question            the sentence above the pictures
seed                of the order, the private images and the restarts
defences            names, in the order they were given
items               one for each identity, in the order of the page:
    label           private label
    restart         which restart of every attack is shown
    order           place -> index into ``defences``: what button 1, 2, ... stands for
    private         digest of the private image
    pictures        place -> digest of the reconstruction
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bido_ext.lab.data.atomic import write_text

FORMAT, VERSION = "bido_ext.study", 1
MOST_DEFENCES = 9  # one key each


@dataclass(frozen=True)
class Item:
    """One identity; the fields are documented in the module."""

    label: int
    restart: int
    order: tuple[int, ...]
    private: str
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """What one page asks; the fields are documented in the module."""

    question: str
    seed: int
    defences: tuple[str, ...]
    items: tuple[Item, ...]

    def __post_init__(self) -> None:
        check_defences(self.defences)
        if not self.items:
            raise ValueError("items must hold at least one identity, got none")
        labels = [item.label for item in self.items]
        if len(set(labels)) != len(labels):
            raise ValueError("items must have different labels, one label comes twice")
        for item in self.items:
            if sorted(item.order) != list(range(len(self.defences))):
                raise ValueError(
                    f"order must hold each of 0..{len(self.defences) - 1} once, the item of label "
                    f"{item.label} has {list(item.order)}"
                )

    @property
    def digest(self) -> str:
        """SHA-256 over everything a participant was shown."""
        content = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The JSON document."""
        return {"format": FORMAT, "version": VERSION, "hash": self.digest, **asdict(self)}

    @classmethod
    def from_dict(cls, document: Any) -> Study:
        """Rebuild from a JSON document.

        Raises:
            ValueError: If it is not a study of this version, lacks a field, or was changed.
        """
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f'a study must be a JSON object with "format": "{FORMAT}"')
        if document.get("version") != VERSION:
            raise ValueError(f"a study must have version {VERSION}, got {document.get('version')}")
        try:
            study = cls(
                document["question"],
                document["seed"],
                tuple(document["defences"]),
                tuple(_item(item) for item in document["items"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"the study lacks a field or has a wrong one: {error}") from None
        if document.get("hash") != study.digest:
            raise ValueError("the study's hash does not fit its content: the file was changed")
        return study


def check_defences(names: tuple[str, ...]) -> None:
    """Refuse fewer than two defences, more than there are keys, and one name twice."""
    if not 2 <= len(names) <= MOST_DEFENCES:
        raise ValueError(
            f"a study compares 2 to {MOST_DEFENCES} defences, got {len(names)}: "
            f"{', '.join(names) or 'none'}; give the folder of bido sweep or demo, or more folders"
        )
    if len(set(names)) != len(names):
        raise ValueError(f"defences must have different names, got {', '.join(names)}")


def write_study(study: Study, path: Path) -> Path:
    """Write ``study.json`` atomically and return its path."""
    return write_text(path, json.dumps(study.to_dict(), indent=1) + "\n")


def key_beside(page: Path) -> Path:
    """Where the key of a page is written.

    Raises:
        ValueError: If that would replace the page itself or a file that is no study.
    """
    path = page.with_suffix(".json")
    if path == page:
        raise ValueError(f"--out must be a web page such as study.html, got {page}")
    if path.exists():
        try:
            read_study(path)
        except ValueError:
            raise ValueError(
                f"--out {page} would put the key of the study over {path}, which is no study; choose "
                "another name"
            ) from None
    return path


def read_study(path: Path) -> Study:
    """Read ``study.json``.

    Raises:
        ValueError: If the file is not JSON or not a study of this version.
        FileNotFoundError: If there is no such file.
    """
    try:
        return Study.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _item(document: dict[str, Any]) -> Item:
    return Item(
        **{**document, "order": tuple(document["order"]), "pictures": tuple(document["pictures"])}
    )

# SPDX-License-Identifier: Apache-2.0
"""List files of data sets: columns of text, in the encodings that editors write."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from .names import shown


def read_rows(path: Path, wanted: str, columns: tuple[int, ...]) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and words of a list, without its empty lines.

    Args:
        path: UTF-8, or UTF-16 with its byte-order mark.
        wanted: what a line holds, for errors.
        columns: how many words a line may have.

    Raises:
        ValueError: The file cannot be read or is in another encoding, or a line has other columns.
    """
    for number, line in enumerate(_text(path).splitlines(), 1):
        row = line.split()
        if row and len(row) not in columns:
            raise ValueError(
                f"{shown(path)} line {number}: expected {wanted}, got {line.strip()!r}"
            )
        if row:
            yield number, row


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{shown(path)} cannot be read ({error.strerror})") from error
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{shown(path)} line {line} is not {'UTF-16' if marked else 'UTF-8'} text; save the "
            "list as UTF-8"
        ) from error
    if "\0" in text:  # UTF-16 without its mark reads as UTF-8 with zeros
        raise ValueError(f"{shown(path)} holds zero bytes, as UTF-16 does; save the list as UTF-8")
    return text

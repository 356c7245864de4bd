# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent: written beside their place, then moved into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path in the same folder to write to; it replaces ``path`` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def remove_leftovers(directory: Path) -> None:
    """Delete the half-written files that killed processes left in a folder."""
    for partial in directory.glob(".*.part"):
        owner = partial.suffixes[-2].removeprefix(".") if len(partial.suffixes) > 1 else ""
        if owner.isdigit() and not _alive(int(owner)):
            partial.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's, or no process id of this system
        return True
    return True


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 text file in one step and return its path."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path

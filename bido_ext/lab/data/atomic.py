# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent: written beside their place, then moved into it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOT_WRITTEN = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS", "EACCES", "EPERM")
    if hasattr(errno, name)
}


class NotWrittenError(OSError):
    """The disk did not take a file; the message names both."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path in the same folder to write to; it replaces ``path`` if the block succeeds.

    Raises:
        NotWrittenError: The disk is full, read-only, or not ours to write to.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What the disk refuses in the block becomes an error that names ``path``.

    Raises:
        NotWrittenError: See ``replacing``.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = _of_disk(error)
        if cause is None or isinstance(error, NotWrittenError):
            raise
        message = f"{path} could not be written: {os.strerror(cause)}"
        if cause == errno.ENOSPC:
            message += f" ({_free(path)} MiB are free there); make room, or choose another disk"
        raise NotWrittenError(message) from error


def _of_disk(error: BaseException | None) -> int | None:
    """The errno behind ``error``: PyTorch's writer reports that its file is short, not why."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NOT_WRITTEN:
            return error.errno
        error = error.__cause__ or error.__context__
    return None


def _free(path: Path) -> int:
    folder = next((parent for parent in path.absolute().parents if parent.is_dir()), Path("/"))
    return shutil.disk_usage(folder).free >> 20


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

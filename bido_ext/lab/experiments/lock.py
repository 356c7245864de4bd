# SPDX-License-Identifier: Apache-2.0
"""One run at a time in one folder: two would take each other's files for their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bido_ext.lab.data.atomic import naming

FILE = ".bido.lock"
PATIENCE = 5.0  # seconds; a finished stage is read in less
FOR_OTHERS = 30 * 86_400.0  # what another process makes for all may take days


@contextmanager
def locked(folder: Path, patience: float | None = None) -> Iterator[None]:
    """Hold ``folder`` for this process; the system lets go when the process ends, however it does.

    Args:
        folder: made if missing.
        patience: seconds to wait for another run that holds it; default: ``PATIENCE``.

    Raises:
        ValueError: Another run holds it, or it is a file.
        NotWrittenError: It cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} must be a folder, it is a file")
    lock = FileLock(folder / FILE)
    try:
        with naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=PATIENCE if patience is None else patience)
    except Timeout:
        raise ValueError(
            f"another run is writing into {folder}; wait until it ends, or choose another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()

# SPDX-License-Identifier: Apache-2.0
"""Names a process so that a later one can tell whether it still runs."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

_RUNNING = "running in "


def this_process() -> str:
    """What a check writes before it starts."""
    return f"{_RUNNING}{os.getpid()} since {_started(os.getpid())} on {platform.node()}"


def has_died(known: object) -> bool:
    """Whether what is stored names a process of this machine that is gone."""
    if not isinstance(known, str) or not known.startswith(_RUNNING):
        return False
    process, _, node = known.removeprefix(_RUNNING).partition(" on ")
    number, _, started = process.partition(" since ")
    if node != platform.node():
        return False  # its process cannot be looked for from here
    # A container gives the same few numbers out again and again: the start tells two processes apart.
    return _started(int(number) if number.isdecimal() else 0) != started


def _started(process: int) -> str:
    """When a process was started, in the kernel's ticks since the boot; "" where there is none.

    Where there is no /proc, "?" says only that it runs.
    """
    stat = Path(f"/proc/{process}/stat")
    if stat.parent.parent.joinpath("self").exists():
        with contextlib.suppress(OSError):
            # The name in parentheses may hold spaces; the start is the 20th field after it.
            return stat.read_text().rpartition(")")[2].split()[19]
        return ""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        return "?"
    return "?"

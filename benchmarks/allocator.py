# SPDX-License-Identifier: Apache-2.0
"""Freed memory stays with the process while times are taken.

By default large blocks go back to the system when they are freed, and the next call pays for their pages
again; in a virtual machine whose host takes free pages back after two seconds ("free page reporting") some
fifteen times as much. That is a cost of the machine and of the time since the last call, not of an
implementation, and the floor, which has its results allocated, would never pay it.
"""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Tells glibc's malloc to keep what is freed; False where there is no glibc to tell."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))

# SPDX-License-Identifier: Apache-2.0
"""Names of files, which on Linux are bytes and need not be UTF-8."""

from __future__ import annotations

import os
from pathlib import Path


def shown(name: str | Path) -> str:
    """``name`` as any terminal, file or JSON takes it: bytes that are no UTF-8 as ``\\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")

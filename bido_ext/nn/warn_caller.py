# SPDX-License-Identifier: Apache-2.0
"""Warnings that point to the user's line, whatever of this package and of PyTorch lies between."""

from __future__ import annotations

import sys
import warnings


def warn_caller(message: str) -> None:
    """Warns at the innermost line outside of bido_ext and torch."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _is_inner(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def _is_inner(module: str) -> bool:
    return module.partition(".")[0] in ("bido_ext", "torch")

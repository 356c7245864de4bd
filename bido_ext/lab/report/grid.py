# SPDX-License-Identifier: Apache-2.0
"""Cells as an aligned text table."""

from __future__ import annotations

from collections.abc import Sequence


def grid(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """The header, a rule and the lines, columns padded to the widest cell."""
    cells = [header, *lines]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    texts = [
        " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    return "\n".join([texts[0], "-+-".join("-" * width for width in widths), *texts[1:]])

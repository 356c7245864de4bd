# SPDX-License-Identifier: Apache-2.0
"""Generated prose in lines of 100 columns, as all Markdown here."""

from __future__ import annotations

import textwrap

COLUMNS = 100


def wrapped(text: str, begin: str = "") -> str:
    """One paragraph, or with ``begin`` one item of a list."""
    return textwrap.fill(
        text,
        COLUMNS,
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
        break_long_words=False,
        break_on_hyphens=False,
    )

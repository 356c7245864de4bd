# SPDX-License-Identifier: Apache-2.0
"""Docstrings are written to be read in a terminal; here they get the little markup that a page needs."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

#: A document of this site that a docstring names, as in "(docs/bido.md)".
PAGE = re.compile(r"\bdocs/(\w+)\.md\b")
#: What reStructuredText takes for markup, outside of ``code`` and *emphasis*: the stars of "n * d" and
#: "*args", and the bars of "|a - b|".
MARKUP = re.compile(r"(``.*?``|(?<!\w)\*\w[^*]*\w\*(?!\w))|(?<![\\*])\*(?!\*)|\|")


def _escaped(line: str) -> str:
    if line.lstrip().startswith((">>>", "...")):
        return line
    line = MARKUP.sub(lambda found: found[1] or f"\\{found[0]}", line)
    return PAGE.sub(r":doc:`/\1`", line)


def _mark_up(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = map(_escaped, lines)


def setup(app: Sphinx) -> dict[str, bool]:
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", _mark_up, priority=400)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}

# SPDX-License-Identifier: Apache-2.0
"""What a picture has to be so that it is light or dark as its reader's screen is."""

from __future__ import annotations

import re
from pathlib import Path

from bido_ext._drawing import COLOURS, STYLE


def follows_the_reader(file: Path) -> bool:
    """Whether an SVG brings both themes and none of the light colours stays fixed."""
    text = file.read_text(encoding="utf-8")
    fixed = set(re.findall(r": (#[0-9a-f]{6})\b", text.replace(STYLE, "")))
    return STYLE in text and not fixed & {light for light, _ in COLOURS.values()}

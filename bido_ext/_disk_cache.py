# SPDX-License-Identifier: Apache-2.0
"""Small facts about this machine kept between runs: verdicts of self-checks, chosen block shapes.

One JSON file per topic in the user's cache directory (BIDO_EXT_CACHE_DIR changes it). A cache that cannot
be read or written is as good as none.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def directory() -> Path:
    """Where the files are."""
    if chosen := os.environ.get("BIDO_EXT_CACHE_DIR"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "bido_ext"


def read(topic: str) -> dict[str, Any]:
    """All that is known of a topic; empty where nothing can be read."""
    try:
        known = json.loads((directory() / f"{topic}.json").read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def update(topic: str, key: str, value: Any) -> None:
    """Adds one fact; the file is replaced as a whole, never half written."""
    with contextlib.suppress(OSError):
        directory().mkdir(parents=True, exist_ok=True)
        facts = {**read(topic), key: value}
        handle, name = tempfile.mkstemp(dir=directory(), suffix=".part")
        with os.fdopen(handle, "w") as file:
            json.dump(facts, file, indent=1, sort_keys=True)
        Path(name).replace(directory() / f"{topic}.json")

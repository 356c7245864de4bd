# SPDX-License-Identifier: Apache-2.0
"""Small facts about this machine kept between runs: verdicts of self-checks, chosen block shapes.

One JSON file per fact, in a folder per topic of the user's cache directory (BIDO_EXT_CACHE_DIR changes it), so
that processes which write at the same time lose nothing. A cache that cannot be read or written is as good as
none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def directory() -> Path:
    """Where the files are."""
    if chosen := os.environ.get("BIDO_EXT_CACHE_DIR"):
        return Path(chosen)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "bido_ext"
    try:
        return Path.home() / ".cache" / "bido_ext"
    except RuntimeError:  # a user without an entry and without HOME, as containers have them
        return Path(tempfile.gettempdir()) / f"bido_ext-{os.getuid()}"


def read(topic: str) -> dict[str, Any]:
    """All that is known of a topic; what cannot be read is not known."""
    facts: dict[str, Any] = {}
    for path in sorted((directory() / topic).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            fact = json.loads(path.read_text())
            facts[fact["key"]] = fact["value"]
    return facts


def read_one(topic: str, key: str) -> Any:
    """One fact, or None."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        fact = json.loads(_file_of(topic, key).read_text())
        return fact["value"] if fact["key"] == key else None
    return None


def _file_of(topic: str, key: str) -> Path:
    return directory() / topic / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def update(topic: str, key: str, value: Any) -> None:
    """Sets one fact; its file is replaced as a whole, never half written."""
    with contextlib.suppress(OSError):
        folder = directory() / topic
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, suffix=".part")
        with os.fdopen(handle, "w") as file:
            json.dump({"key": key, "value": value}, file)
        Path(name).replace(_file_of(topic, key))

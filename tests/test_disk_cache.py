# SPDX-License-Identifier: Apache-2.0
"""Facts of several processes at once: none is lost, none is half written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bido_ext import _disk_cache

WRITER = """
import sys
from bido_ext import _disk_cache
for i in range(40):
    _disk_cache.update("topic", f"{sys.argv[1]}-{i}", "running")
    _disk_cache.update("topic", f"{sys.argv[1]}-{i}", "passed")
"""


def test_processes_that_write_at_once_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIDO_EXT_CACHE_DIR", str(tmp_path))
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, name]) for name in "abcd"]
    assert [writer.wait() for writer in writers] == [0] * 4
    assert _disk_cache.read("topic") == {
        f"{name}-{i}": "passed" for name in "abcd" for i in range(40)
    }


def test_what_cannot_be_read_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIDO_EXT_CACHE_DIR", str(tmp_path))
    _disk_cache.update("topic", "one", 1)
    (tmp_path / "topic" / "broken.json").write_text("{")
    (tmp_path / "topic" / "list.json").write_text("[]")
    assert _disk_cache.read("topic") == {"one": 1}
    assert _disk_cache.read("nothing") == {}


def test_a_user_without_a_home_has_a_cache_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("BIDO_EXT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", staticmethod(no_home))
    assert "bido_ext-" in _disk_cache.directory().name


def test_a_place_that_cannot_be_written_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIDO_EXT_CACHE_DIR", "/proc/no/such/place")
    _disk_cache.update("topic", "a", 1)
    assert _disk_cache.read("topic") == {}
    assert _disk_cache.read_one("topic", "a") is None

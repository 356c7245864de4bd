# SPDX-License-Identifier: Apache-2.0
"""A skip that is not on the list fails the run where all that tests need was installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from preloaded import run_python

HERE = Path(__file__).parent
TESTS = """
import pytest

def test_passes():
    pass

@pytest.mark.skip(reason="{reason}")
def test_is_skipped():
    pass
"""


#: What `python -m pytest` does.
PYTEST = "import sys, pytest; sys.exit(pytest.console_main())"


def run_with(tmp_path: Path, reason: str, strict: str) -> subprocess.CompletedProcess[str]:
    for name in ("conftest.py", "quick_interpreter.py", "allowed_skips.txt"):
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "test_one.py").write_text(TESTS.format(reason=reason))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: x\n")
    return run_python(
        PYTEST, "-q", "-p", "no:cacheprovider",
        cwd=tmp_path,
        env=os.environ | {"BIDO_EXPECT_NO_SKIPS": strict, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "strict", "code"),
    [
        ("chromium is not installed", "1", 1),
        ("chromium is not installed", "0", 0),
        ("once is enough", "1", 0),
    ],
)
def test_unexpected_skip_fails_where_it_must(
    tmp_path: Path, reason: str, strict: str, code: int
) -> None:
    done = run_with(tmp_path, reason, strict)
    assert done.returncode == code, done.stdout
    assert ("allowed_skips.txt" in done.stdout) == bool(code)

# SPDX-License-Identifier: Apache-2.0
"""The source distribution holds every file of the repository that builds, runs, tests or measures it."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from bido_ext import __version__

ROOT = Path(__file__).resolve().parents[1]
#: Of use in a git checkout alone.
NOT_NEEDED = {".gitignore"}


def test_sdist_holds_every_tracked_file(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout to compare the sdist with")
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    wanted = {name for name in tracked if name and (ROOT / name).exists()} - NOT_NEEDED
    subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path),
         "sdist", "--formats=tar", "--dist-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (archive,) = tmp_path.glob("*.tar")
    assert archive.name == f"bido_ext-{__version__}.tar"
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    assert not wanted - held
    assert not [name for name in held if name.endswith((".so", ".pyc"))]

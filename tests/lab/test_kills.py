# SPDX-License-Identifier: Apache-2.0
"""A killed run resumes to the bits of an uninterrupted one. BIDO_KILLS sets how many kills (default 30)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    kills = int(os.environ.get("BIDO_KILLS", "30"))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0"}
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "kills.py"), str(tmp_path / "runs"), str(kills)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    report = json.loads(done.stdout)
    print(report)
    assert report["kills"] >= kills
    assert report["different"] == 0
    assert report["leftovers"] == 0

# SPDX-License-Identifier: Apache-2.0
"""All sources compile against the headers of every PyTorch that is promised: slow, needs the network.

A release step (CONTRIBUTING.md). BIDO_TORCH_VERSIONS narrows it, as "2.10.0 2.14.1".
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = os.environ.get(
    "BIDO_TORCH_VERSIONS", "2.10.0 2.11.0 2.12.0 2.13.0 2.14.1 2.15.0"
).split()


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_sources_compile_against_the_headers_of(version: str, tmp_path: Path) -> None:
    download = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
    ]
    done = subprocess.run(
        [*download, "--dest", str(tmp_path), f"torch=={version}"],
        env=os.environ | {"PIP_CONSTRAINT": os.devnull}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no wheel of PyTorch {version} for this Python can be had")
    (wheel,) = tmp_path.glob("torch-*.whl")
    compiled = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "headers.py"), str(wheel)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert compiled.returncode == 0, compiled.stdout


def test_headers_that_lack_the_stable_abi_are_refused(tmp_path: Path) -> None:
    (tmp_path / "torch" / "include").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "headers.py"), str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "has no torch/include with the stable ABI" in done.stderr

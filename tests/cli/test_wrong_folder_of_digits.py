# SPDX-License-Identifier: Apache-2.0
"""--data without digits is refused by every command; none fetches others instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bido_ext.cli.app import app


@pytest.mark.parametrize("command", ["run", "arena", "demo", "sweep"])
def test_the_wrong_folder_of_digits(command: str, tmp_path: Path) -> None:
    data = tmp_path / "faces"
    data.mkdir()
    (data / "face.png").write_bytes(b"no digit")
    what = {
        "run": ["mnist-mcnn-none"], "arena": ["mnist"], "demo": [], "sweep": ["mnist-mcnn-bido-hsic", "--weights", "0,1"],
    }[command]  # fmt: skip
    done = CliRunner().invoke(
        app, [command, *what, "--data", str(data), "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 2
    assert "holds no readable torchvision MNIST" in done.stderr

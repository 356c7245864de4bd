# SPDX-License-Identifier: Apache-2.0
"""A path that the system refuses is named with its option, in one sentence, as bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from bido_ext.cli.errors import BAD_INPUT, plain_errors


def test_the_option_of_a_refused_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.pt"
    file.touch()

    @plain_errors
    def below_a_file(out: Path) -> None:
        (out / "run").mkdir()

    @plain_errors
    def beside(out: Path) -> None:
        (out.parent / ".part").write_text("")

    for command, out in ((below_a_file, file), (beside, tmp_path / "none" / "x.tar")):
        with pytest.raises(typer.Exit) as stopped:
            command(out=out)
        assert stopped.value.exit_code == BAD_INPUT
        told = capsys.readouterr().err
        assert told.startswith(f"bido: out: the system refuses '{out}'"), told
        assert "give another path" in told


def test_other_errors_of_the_system_stay(capsys: pytest.CaptureFixture[str]) -> None:
    @plain_errors
    def command(out: str) -> None:
        raise FileNotFoundError(f"there is no checkpoint {out}")

    with pytest.raises(typer.Exit):
        command(out="a.pt")
    assert capsys.readouterr().err == "bido: there is no checkpoint a.pt\n"

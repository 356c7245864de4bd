# SPDX-License-Identifier: Apache-2.0
"""``bido tune``: the table, as text and as JSON, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bido_ext.cli.app import app


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIDO_EXT_CACHE_DIR", str(tmp_path))


def tune(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["tune", "--device", "cpu", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_table_names_what_serves() -> None:
    text = tune("--n", "16", "--dims", "12,9", "--measures", "hsic")
    assert text.startswith("on cpu")
    (line,) = [line for line in text.splitlines() if line.endswith("serves")]
    assert line.split()[0] == "hsic"
    assert " cpu " in line


def test_json_has_a_time_and_an_error_of_each_implementation() -> None:
    table = json.loads(
        tune("--n", "16", "--dims", "12,9", "--measures", "hsic,nhsic,cka", "--json")
    )
    by_op = {row["op"]: row for row in table["rows"]}
    assert set(by_op["hsic"]["milliseconds"]) == {"cpu", "composed", "split"}
    assert all(0 < error < 1e-4 for error in by_op["hsic"]["errors"].values())
    assert set(by_op["nhsic"]["milliseconds"]) == {
        "cpu",
        "composed",
        "sweep",
        "composition",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dims", "12"], "dims must be the columns of the input and of at least one layer"),
        (["--dims", "a,b"], "--dims must be numbers"),
        (["--dtype", "int8x"], "--dtype must be float32"),
        (["--dtype", "int8"], "dtype must be float64, float32"),
        (["--measures", "hsic,mmd"], "measures must be"),
        (["--n", "2"], "n must be"),
    ],
)
def test_what_cannot_be_tuned_is_refused(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["tune", "--device", "cpu", *arguments])
    assert result.exit_code == 2
    assert words in result.output.replace("\n", " ")

# SPDX-License-Identifier: Apache-2.0
"""The measurement of an attack that processes share, with one process and stand-ins."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import attack_ranks
from bido_ext.cli.app import app

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    command = ["train", "--preset", "smoke", "--device", "cpu", "--out", str(folder), "--json"]
    assert CliRunner().invoke(app, command).exit_code == 0
    return folder / "model.pt"


def in_this_process(*more: str) -> Callable[[int, Sequence[str], Path], None]:
    """Stands in for ``attack``; ``more`` is given to all but the first number of processes."""

    def attack(ranks: int, arguments: Sequence[str], out: Path) -> None:
        own = more if ranks > 1 else ()
        command = ["attack", *arguments, *own, "--out", str(out), "--device", "cpu", "--json"]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.stderr

    return attack


def test_the_record_holds_times_and_differences(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attack_ranks, "attack", in_this_process())
    record = attack_ranks.run(model, tmp_path / "gan", [1, 2], ["steps=2"], preset="smoke")
    one, two = record["rows"]
    assert (one["times_as_fast"], two["ranks"]) == (1.0, 2)
    assert two["largest_difference_of_a_pixel"] == 0
    assert record["spec"]["settings"]["steps"] == 2
    assert "2 processes" in attack_ranks.text(record)
    json.dumps(record, allow_nan=False)


def test_other_images_are_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attack_ranks, "attack", in_this_process("--set", "lr=0.5"))
    with pytest.raises(attack_ranks.DifferentError, match="2 processes: a pixel differs"):
        attack_ranks.run(model, tmp_path / "gan", [1, 2], ["steps=2"], preset="smoke")

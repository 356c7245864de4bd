# SPDX-License-Identifier: Apache-2.0
"""A defence is one file and one line of the registry: everything else follows by itself."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from stand_ins import a_row, some_results
from typer.testing import CliRunner

import bido_ext.lab.defences as defences
from bido_ext.cli.app import app
from bido_ext.cli.catalogue import rows_of
from bido_ext.lab.defences import DEFENCES, DefenceSpec, Extra, Rule
from bido_ext.lab.defences.registry import FILES
from bido_ext.lab.models.checkpoint import load_model
from bido_ext.lab.report.plot import tradeoff_figure

FOLDER = Path(defences.__file__).parent
NO_DEFENCES = {"__init__", "registry", "rule"}


class Inverted(Rule):
    """Negatives of the images, learnt under the same labels."""

    def extra(self, step):
        return Extra("ce(negative)", 1 - step.images, step.labels, self.weights["share"])

    def told(self):
        return {"negatives": 1.0}


INVERTED = DefenceSpec(
    "inverted", {"share": 0.5}, "negatives (nobody, never)", "negatives", Inverted
)


@pytest.fixture
def inverted(monkeypatch):
    monkeypatch.setitem(DEFENCES, "inverted", INVERTED)


def test_every_file_is_one_line_of_the_registry():
    assert {path.stem for path in FOLDER.glob("*.py")} - NO_DEFENCES == set(FILES)
    for name in FILES:
        names = [node.id for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text()))
                 if isinstance(node, ast.Name)]  # fmt: skip
        assert "SPECS" in names
    # Beside the files and the pictures' colours, no module of the lab asks for one by name.
    assert FILES[0] == "none"


def test_it_trains_logs_and_is_written(inverted, tmp_path):
    line = ["train", "--preset", "smoke", "--defence", "inverted+ls", "--weights", "share=0.25"]
    done = CliRunner().invoke(app, [*line, "--out", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["natural_accuracy"] >= 0
    header = (tmp_path / "log.csv").read_text().splitlines()[0].split(",")
    assert {"ce(negative)", "negatives"} <= set(header)
    facts = load_model(tmp_path / "model.pt")[1]
    assert facts["weights"]["share"] == 0.25
    assert facts["metrics"]["negatives"] == 1.0


def test_it_is_listed_and_drawn(inverted):
    assert {"inverted", "trap-mid", "dp-sgd"} <= {row["name"] for row in rows_of("defences")}
    rows = [a_row(name, 0.9, 0.5) for name in ("none", "inverted", "trap-mid", "at-at", "mid")]
    axes = tradeoff_figure(some_results(*rows)).axes[0]
    drawn = {
        (line.get_color(), line.get_marker()) for line in axes.lines if line.get_marker() != "None"
    }
    styles = {(c, m) for c, m in drawn if m not in ("|", "_", "", None)}
    assert len(styles) >= len(rows), "each has a colour and a marker of its own"


def test_it_combines_with_dp_sgd_only_if_it_says_that_it_may(inverted, monkeypatch):
    with pytest.raises(ValueError, match="under inverted an image also changes what the others do"):
        defences.parts_of("inverted+dp-sgd")
    harmless = DefenceSpec("inverted", {}, "d", "l", per_image=True)
    monkeypatch.setitem(DEFENCES, "inverted", harmless)
    assert len(defences.parts_of("inverted+dp-sgd")) == 2

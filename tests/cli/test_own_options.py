# SPDX-License-Identifier: Apache-2.0
"""No message advises an option that the command lacks: it says what the command has instead."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import bido_ext.lab.data
from bido_ext.cli.app import app
from bido_ext.cli.attack import attack
from bido_ext.cli.compare import compare
from bido_ext.cli.data import check
from bido_ext.cli.demo import demo
from bido_ext.cli.evaluate import evaluate
from bido_ext.cli.options import Fresh, SecondJudge
from bido_ext.cli.own_options import as_typed, in_words_of
from bido_ext.cli.run import run
from bido_ext.cli.suggest import suggest
from bido_ext.cli.sweep import sweep
from bido_ext.cli.train import train

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
# They read no public images, so nothing is said of these to their users.
WITHOUT_PUBLIC = (suggest, compare, demo)


# The data set MNIST is fetched by pip, which has options of its own.
OF_PIP = {"--quiet", "--no-deps", "--dest", "--disable-pip-version-check"}


def messages() -> list[str]:
    """What the package of data sets may tell that names an option of a command."""
    texts = [
        node.value
        for path in Path(bido_ext.lab.data.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return [text for text in texts if set(OPTION.findall(text)) - OF_PIP]


def options(command: Callable[..., Any]) -> set[str]:
    names = inspect.signature(command).parameters
    return {each for name in names for each in as_typed(command, name).split("/")}


@pytest.mark.parametrize(
    "command", [train, suggest, attack, evaluate, compare, demo, run, sweep, check]
)
def test_messages_of_data_sets(command: Callable[..., Any]) -> None:
    own = options(command)
    if command in WITHOUT_PUBLIC:
        own |= {"--public", "--public-data", "--crop"}
    if command is check:
        own |= {"--crop"}  # it cuts as the data set says, so no crop is refused
    texts = messages()
    assert any("--dataset" in text for text in texts)
    for text in texts:
        told = in_words_of(command, text)
        assert set(OPTION.findall(told)) <= own | OF_PIP, told


def test_own_options_stay() -> None:
    assert in_words_of(train, "give --dataset or --data") == "give --dataset or --data"
    assert in_words_of(run, "see --dataset-like") == "see --dataset-like"


def test_commands_in_their_own_words(tmp_path: Path) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text('extends = "mnist-mcnn-none"\n[data]\nprivate = "synthetic"\n')
    empty = tmp_path / "empty"
    (empty / "MNIST").mkdir(parents=True)  # else the folder is not taken for that of MNIST
    (empty / "synthetic").mkdir()
    data, out = ["--data", str(empty)], ["--out", str(tmp_path / "x")]
    for command, told in (
        (["run", str(recipe), *data, *out], "with private of [data] in the recipe"),
        (["run", "mnist-mcnn-none", *data, *out], "with private of [data] in the recipe"),
        (["demo", *data, *out], "name it with --preset"),
        (["data", "check", "synthetic", str(empty)], "FOLDER is of no use to 'synthetic'"),
        (["data", "check", "mnist", str(empty)], "name it with DATASET"),
        (["data", "check", "cifar10", str(empty)], "FOLDER must hold cifar-10-batches-py"),
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code in (1, 2)
        assert told in result.output, result.output
        assert "--dataset" not in result.output


def test_an_option_has_the_name_that_it_was_given() -> None:
    def command(fresh: Fresh = False, second_judge: SecondJudge = True) -> None: ...

    assert as_typed(command, "fresh") == "--fresh/--resume"
    assert as_typed(command, "second_judge") == "--second-judge/--no-second-judge"

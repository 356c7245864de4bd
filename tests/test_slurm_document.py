# SPDX-License-Identifier: Apache-2.0
"""docs/slurm.md: its scripts are shell, its commands parse, its array has the rows that there are."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from bido_ext.cli.app import app

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "slurm.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.M | re.S)
SCRIPTS = [text for kind, text in BLOCKS if kind == "bash"]
#: Of sbatch, as its manual names them.
SBATCH = {
    *("array", "cpus-per-task", "dependency", "gpus-per-node", "nodes", "open-mode", "parsable"),
    *("requeue", "time"),
}


def lines() -> list[list[str]]:
    joined = "\n".join(text for _, text in BLOCKS).replace("\\\n", " ")
    return [shlex.split(line) for line in joined.splitlines() if line and line[0] not in "#1234567"]


def commands() -> list[list[str]]:
    """What follows ``bido``, however it is started."""
    found = []
    for words in lines():
        if words[0] == "bido":
            found.append(words[1:])
        elif words[0] == "torchrun":
            found.append(words[words.index("-m") + 2 :])
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_shell(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    given = [line.split()[1] for line in script.splitlines() if line.startswith("#SBATCH")]
    given += re.findall(r"sbatch (.*?) sweep.sh", script)
    for option in " ".join(given).split():
        assert option.removeprefix("--").partition("=")[0] in SBATCH


def test_commands_parse() -> None:
    """Names, values and their types; nothing is run."""
    root = get_command(app)
    found = commands()
    assert len(found) == 5
    for words in found:
        command = root.commands[words[0]]  # type: ignore[attr-defined]
        numbers = {"${SLURM_ARRAY_TASK_ID:-1}": "1", "$SLURM_CPUS_PER_TASK": "8"}
        command.make_context(words[0], [numbers.get(word, word) for word in words[1:]])


def test_torchrun_knows_its_options() -> None:
    from torch.distributed.run import get_args_parser

    parser: argparse.ArgumentParser = get_args_parser()
    (words,) = [words for words in lines() if words[0] == "torchrun"]
    told = parser.parse_args(words[1:])
    assert (told.nproc_per_node, told.module, told.training_script) == ("8", True, "bido_ext")


def test_the_array_has_the_rows_that_there_are(tmp_path: Path) -> None:
    (asked,) = [words for words in commands() if "--rows" in words]
    asked[asked.index("--out") + 1] = str(tmp_path)
    told = CliRunner().invoke(app, asked).stdout
    assert f"```text\n{told}```" in PAGE
    first, last = re.findall(r"--array=(\d+)-(\d+)", PAGE)[0]
    assert (int(first), int(last)) == (2, len(told.splitlines()))
    same = [words[: words.index("0.05,1") + 1] for words in commands() if words[0] == "sweep"]
    for words in same:
        words[words.index("--out") + 1] = str(tmp_path)
    assert all(words == same[0] for words in same), "one sweep, however it is run"

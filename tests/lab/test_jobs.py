# SPDX-License-Identifier: Apache-2.0
"""Work shared over processes: each piece once, one thread each, deaths cost their own piece alone."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from preloaded import server

from bido_ext.lab.experiments import jobs
from bido_ext.lab.experiments.jobs import THREADS, JobsError, Piece, share
from bido_ext.lab.experiments.lock import locked
from bido_ext.lab.experiments.narrator import Narrator


def square(number, folder, narrator):
    """Leaves a line for each time that it is done."""
    with (folder / f"{number}.txt").open("a") as file:
        file.write("done\n")
    narrator.say(f"squaring {number}")
    threads = (torch.get_num_threads(), {os.environ[name] for name in THREADS})
    assert threads == (1, {"1"})
    return number * number


def dies(number, folder, narrator):
    """As an out-of-memory killer does it, or by an error of its own."""
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 1:
        raise ValueError(f"no such\nthing as {number}")
    if number == 2:
        os._exit(3)
    return square(number, folder, narrator)


def waits(number, folder, narrator):
    """Holds its folder until it is ended."""
    with locked(folder / str(number)):
        (folder / f"{number}.began").touch()
        time.sleep(600)


def meets(number, folder, narrator):
    """Ends when another one is there at the same time."""
    (folder / f"{number}.here").touch()
    until = time.monotonic() + 120
    while len(list(folder.glob("*.here"))) < 2:
        assert time.monotonic() < until, "nobody else came"
        time.sleep(0.05)
    return os.getpid()


def pieces(work, folder, count):
    return [Piece(f"p{i}", work, (i, folder), folder / "logs" / f"{i}.txt") for i in range(count)]


@pytest.mark.slow
def test_each_piece_once_in_its_own_process(tmp_path):
    story = io.StringIO()
    before = {name: os.environ.get(name) for name in THREADS}
    given = share(pieces(square, tmp_path, 3), 2, Narrator(1, story), lambda n: f"it is {n}")
    assert given == [0, 1, 4]
    assert [(tmp_path / f"{i}.txt").read_text() for i in range(3)] == ["done\n"] * 3
    assert (tmp_path / "logs" / "2.txt").read_text() == "squaring 2\n"
    told = story.getvalue().splitlines()
    assert told[0] == "p0: begun; 1 at work, 2 waiting"
    assert told[1] == "p1: begun; 2 at work, 1 waiting"
    assert told[-1].endswith("; 3 done")
    assert "p2: done: it is 4; " in story.getvalue()
    assert {name: os.environ.get(name) for name in THREADS} == before


@pytest.mark.slow
def test_two_at_the_same_time(tmp_path):
    first, second = share(pieces(meets, tmp_path, 2), 2, Narrator(1, io.StringIO()))
    assert first != second != os.getpid()


@pytest.fixture
def forked(monkeypatch):
    """Processes are forked from one that has PyTorch; the slow tests start them as users do."""
    made = types.SimpleNamespace(get_context=lambda kind: server())
    monkeypatch.setattr(jobs, "multiprocessing", made)


@pytest.mark.usefixtures("forked")
def test_a_death_costs_its_own_piece_alone(tmp_path):
    with pytest.raises(JobsError, match="3 of 4 not finished, the same command") as caught:
        share(pieces(dies, tmp_path, 4), 2, Narrator(1, io.StringIO()))
    told = str(caught.value)
    assert "p0: its process was killed by signal 9" in told
    assert "p1: no such thing as 1" in told
    assert "p2: its process ended with 3" in told
    assert {path.name for path in tmp_path.glob("*.txt")} == {"3.txt"}


PARENT = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import test_jobs
from bido_ext.lab.experiments.jobs import share
from bido_ext.lab.experiments.narrator import Narrator
if __name__ == "__main__":
    share(test_jobs.pieces(test_jobs.waits, Path(sys.argv[1]), 2), 2, Narrator(1))
"""


def test_when_the_parent_is_killed_nobody_holds_a_folder(tmp_path):
    script, here = tmp_path / "parent.py", Path(__file__).parent
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), str(here), str(here.parent)]
    )
    until = time.monotonic() + 240
    while len(list(tmp_path.glob("*.began"))) < 2:
        assert time.monotonic() < until
        assert parent.poll() is None
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    for number in range(2):
        with locked(tmp_path / str(number), 60):
            pass


def test_at_least_one_job(tmp_path):
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        share([], 0, Narrator(1, io.StringIO()))

# SPDX-License-Identifier: Apache-2.0
"""Who gets which seconds of the budget: every step its share of what is left, then what had no time once more.

Nothing runs past the deadline. A step that ends early leaves its time to those after it. When all had their
turn, what is left goes to the commands that had no time, then to those that were stopped, in order of worth,
and to these only where they get clearly more than before: what hangs costs time that nobody else wants.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.process import Ended, run_limited
from benchmarks.gpu_check.steps import Commands, Step

#: A step gets at least this of what is left.
SHORTEST = 10.0
#: A command gets no less than this, or is not started: Python and PyTorch take some of it to start.
LEAST = 4.0
#: A command that was stopped gets another turn with at least so many times its seconds.
MORE = 1.5


@dataclass
class Task:
    """One command of a step.

    Attributes:
        ended: How its latest turn ended; None where it had none.
        granted: Seconds it got for it.
        turns: How often it was started.
    """

    command: list[str]
    ended: Ended | None = None
    granted: float = 0.0
    turns: int = 0

    def run(self, seconds: float) -> None:
        """One turn."""
        self.granted, self.turns = seconds, self.turns + 1
        try:
            self.ended = run_limited(self.command, seconds)
        except OSError as error:  # a program that is not there
            self.ended = Ended(127, 0.0, str(error))


@dataclass
class Progress:
    """A step, its commands, and what it was given in its turn."""

    step: Step
    tasks: list[Task]
    limit: float = 0.0
    spent: float = field(default=0.0)

    def told(self) -> dict[str, Any]:
        """As the summary has it."""
        exits = [task.ended.exit for task in self.tasks if task.ended]
        left_out = sum(task.ended is None for task in self.tasks)
        return {
            "status": self._status(exits, left_out), "brings": self.step.brings,
            "limit": round(self.limit, 1), "seconds": round(self.spent, 1), "left_out": left_out,
            "exits": exits,
            "parts": [
                {"command": readable(task.command), "turns": task.turns,
                 "granted": round(task.granted, 1), **vars(task.ended)}
                for task in self.tasks if task.ended
            ],
        }  # fmt: skip

    def _status(self, exits: list[int | None], left_out: int) -> str:
        if self.step.lacks:
            return f"needs {self.step.lacks}"
        return status_of(exits, left_out, len(self.tasks))


def run_steps(
    steps: Sequence[Step],
    device: str,
    out: Path,
    deadline: float,
    on_change: Callable[[dict[str, Any]], bool],
) -> None:
    """Runs all until the deadline; ``on_change`` gets the summary's steps after each, False ends the run."""
    progress: list[Progress] = []

    def changed() -> bool:
        return on_change({p.step.name: p.told() for p in progress})

    for index, step in enumerate(steps):
        left = deadline - time.monotonic()
        share = step.seconds / sum(s.seconds for s in steps[index:])
        one = Progress(step, [Task(command) for command in _commands(step, device, out)])
        progress.append(one)
        one.limit = min(left, max(left * share, SHORTEST))
        _first_turn(one)
        if not changed():
            return
    for one, task, seconds in second_turns(progress, deadline):
        _run(one, task, seconds)
        if not changed():
            return


def _commands(step: Step, device: str, out: Path) -> Commands:
    return [] if step.lacks else step.commands(device, out)


def _first_turn(one: Progress) -> None:
    end = time.monotonic() + one.limit
    for index, task in enumerate(one.tasks):
        left = end - time.monotonic()
        if one.step.evenly:
            left /= len(one.tasks) - index
        if left >= LEAST:
            _run(one, task, left)


def _run(one: Progress, task: Task, seconds: float) -> None:
    again = " (again)" if task.turns else ""
    print(f"== {one.step.name}: {readable(task.command)}{again}", flush=True)
    task.run(seconds)
    assert task.ended is not None
    one.spent += task.ended.seconds
    if task.ended.exit != 0:
        print(task.ended.said[-1500:], flush=True)


def second_turns(
    progress: Sequence[Progress], deadline: float
) -> Iterable[tuple[Progress, Task, float]]:
    """The commands that are to run with what is left, and their seconds, one after the other."""
    every = [(one, task) for one in progress for task in one.tasks]
    never = [(one, task) for one, task in every if task.ended is None]
    for index, (one, task) in enumerate(never):
        seconds = (deadline - time.monotonic()) / (len(never) - index)
        if seconds >= LEAST:
            yield one, task, seconds
    stopped = [(one, task) for one, task in every if task.ended and task.ended.exit is None]
    for index, (one, task) in enumerate(stopped):
        left = deadline - time.monotonic()
        seconds = max(left / (len(stopped) - index), MORE * task.granted, LEAST)
        if seconds <= left:
            yield one, task, seconds


def status_of(exits: list[int | None], left_out: int, commands: int) -> str:
    """One word: right, wrong, cut (all that ended is right, the rest had no time), left out, needs a GPU."""
    if not commands:
        return "needs a GPU"
    if any(code not in (0, None) for code in exits):
        return "wrong"
    if not exits:
        return "left out"
    return "cut" if left_out or None in exits else "right"


def readable(command: Sequence[str]) -> str:
    """A command without the folders of this machine."""
    words = [Path(word).name if os.path.isabs(word) else word for word in command]
    return " ".join(words)

# SPDX-License-Identifier: Apache-2.0
"""Tells what a run is doing: stage n of m, why, how long."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from bido_ext.lab.report.duration import duration


class Narrator:
    """Writes to stderr, as the progress bars do, so that stdout holds results alone."""

    def __init__(self, stages: int, stream: TextIO | None = None) -> None:
        self.stages, self.done = stages, 0
        self.stream = sys.stderr if stream is None else stream
        self.started = time.monotonic()

    @contextmanager
    def stage(self, title: str, why: str) -> Iterator[list[str]]:
        """One stage; non-empty lines appended to the yielded list are printed at its end."""
        self.done += 1
        width = len(str(self.stages))
        began, outcome = time.monotonic(), list[str]()
        self.say(f"\n[{self.done:>{width}}/{self.stages}] {title}")
        self.say(f"    {why}")
        yield outcome
        for line in filter(None, outcome):
            self.say(f"    {line}")
        now = time.monotonic()
        self.say(f"    {duration(now - began)}, {duration(now - self.started)} since the start")

    def say(self, line: str) -> None:
        """Print one line at once."""
        print(line, file=self.stream, flush=True)

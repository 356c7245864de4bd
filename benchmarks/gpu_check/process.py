# SPDX-License-Identifier: Apache-2.0
"""One command with a time limit: what it started dies with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        exit: Its exit code, negative for a signal; None where it was stopped at its limit.
        seconds: How long it ran.
        said: The end of what it printed.
    """

    exit: int | None
    seconds: float
    said: str


def run_limited(
    command: Sequence[str], limit: float, tail: int = 3000, cwd: Path | None = None
) -> Ended:
    """Runs a command in a process group of its own for at most ``limit`` seconds."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True, cwd=cwd,
        )  # fmt: skip
        code: int | None = None
        try:
            code = process.wait(timeout=max(limit, 0.1))
        except subprocess.TimeoutExpired:
            pass
        finally:
            # The group too: workers of a command that ended may still hold the GPU.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # A process stuck in the driver cannot be waited for; nothing later may hang on it.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
        output.seek(0, os.SEEK_END)
        output.seek(max(0, output.tell() - tail))
        said = output.read().decode(errors="replace")
    return Ended(code, round(time.monotonic() - start, 1), said)

# SPDX-License-Identifier: Apache-2.0
"""Python code as `python -c` runs it, in a fork of a process that has imported PyTorch, which takes seconds.

Not for tests of what is imported, of signals, or of what happens when an interpreter ends.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path


class _Process(ForkServerProcess):
    """Has the environment of the process that starts it, as one that is spawned."""

    def start(self) -> None:
        self._environment = dict(os.environ)
        super().start()

    def run(self) -> None:
        os.environ.clear()
        os.environ.update(self._environment)
        super().run()


class _Context(ForkServerContext):
    Process = _Process


def server() -> ForkServerContext:
    """Processes of this context are forked from one, of each worker, that has PyTorch and nothing of ours."""
    context = _Context()
    context.set_forkserver_preload(["torch", "torch.distributed", "torchvision"])
    return context


def run_python(
    code: str, *arguments: str, env: Mapping[str, str] | None = None, cwd: str | Path | None = None
) -> subprocess.CompletedProcess[str]:
    """What ``subprocess.run([sys.executable, "-c", code, *arguments], env=env, cwd=cwd)`` gives, with its output."""
    environment = dict(os.environ if env is None else env)
    if environment.get("TRITON_INTERPRET") and not os.environ.get("TRITON_INTERPRET"):
        # PyTorch has loaded Triton by then, as the compiler.
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=environment, cwd=cwd, capture_output=True, text=True, check=False,
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        path = _path_of_a_new_process()
        process = server().Process(
            target=_run, args=(code, arguments, environment, path, cwd or os.getcwd(), out, err)
        )
        process.start()
        process.join()
        command = ["python", "-c", code, *arguments]
        return subprocess.CompletedProcess(
            command, process.exitcode or 0, out.read_text(), err.read_text()
        )


@functools.cache
def _path_of_a_new_process() -> list[str]:
    """Where it looks for modules beside PYTHONPATH; pytest has put more on its own."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    code = "import json, sys; print(json.dumps(sys.path[1:]))"
    told = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, check=True)
    path: list[str] = json.loads(told.stdout)
    return path


def _run(
    code: str,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    path: list[str],
    cwd: str | Path,
    out: Path,
    err: Path,
) -> None:
    for file, number in ((out, 1), (err, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    given = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = ["", *given, *path]
    sys.argv = ["-c", *arguments]
    status = 0
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if not isinstance(end.code, int | None):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

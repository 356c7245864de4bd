# SPDX-License-Identifier: Apache-2.0
"""Pieces of work shared over processes of one thread each; each piece is taken once.

A process that dies costs its own piece alone, the others go on. When the process that started them
dies, they stop too, so that nobody writes into the folders of the next run.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from bido_ext.lab.experiments.narrator import Narrator

T = TypeVar("T")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Piece(Generic[T]):
    """One piece of work.

    Attributes:
        name: what to call it.
        work: a function of a module, called with ``arguments`` and ``narrator=``.
        arguments: picklable.
        log: file that its story is appended to.
    """

    name: str
    work: Callable[..., T]
    arguments: tuple[Any, ...]
    log: Path


class JobsError(RuntimeError):
    """Some pieces were not finished; the others are."""


def share(
    pieces: Sequence[Piece[T]],
    jobs: int,
    narrator: Narrator,
    told: Callable[[T], str] = lambda _: "",
) -> list[T]:
    """Do the pieces, ``jobs`` at a time, each in a process of its own with one thread.

    Args:
        pieces: in the order in which they are begun.
        jobs: processes at a time, at least 1.
        narrator: says which piece begins and ends.
        told: one line on what a piece gave.

    Returns:
        What each gave, in the order of ``pieces``.

    Raises:
        ValueError: ``jobs`` is below 1.
        JobsError: a piece failed or its process was killed; all others were done first.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    context = multiprocessing.get_context("spawn")  # threads and CUDA do not survive a fork
    waiting, given, failed = list(enumerate(pieces)), dict[int, T](), list[str]()
    at_work: dict[int, tuple[BaseProcess, Connection]] = {}
    try:
        while waiting or at_work:
            while waiting and len(at_work) < jobs:
                number, piece = waiting.pop(0)
                receiver, sender = context.Pipe(duplex=False)
                begun = context.Process(target=_work, args=(piece, sender), name=piece.name)
                with _one_thread():
                    begun.start()
                sender.close()
                at_work[number] = begun, receiver
                narrator.say(f"{piece.name}: begun; {_counted(at_work, waiting, given, failed)}")
            number, outcome, error = _ended(at_work)
            if error:
                failed.append(f"{pieces[number].name}: {error}")
            else:
                given[number] = outcome
            line = error or ": ".join(filter(None, ("done", told(outcome))))
            count = _counted(at_work, waiting, given, failed)
            narrator.say(f"{pieces[number].name}: {line}; {count}")
    finally:
        for process, _ in at_work.values():
            process.terminate()
            process.join()
    if failed:
        raise JobsError(
            f"{len(failed)} of {len(pieces)} not finished, the same command continues there: "
            + "; ".join(failed)
        )
    return [given[number] for number in range(len(pieces))]


def _counted(at_work: Any, waiting: Any, given: Any, failed: Any) -> str:
    parts = {"at work": at_work, "waiting": waiting, "done": given, "failed": failed}
    return ", ".join(f"{len(part)} {name}" for name, part in parts.items() if part)


def _ended(at_work: dict[int, tuple[BaseProcess, Connection]]) -> tuple[int, Any, str]:
    """Wait for one: its number, what it gave, and what went wrong."""
    # An outcome is received before its process is joined: a full pipe would hold it for ever.
    ready = wait([receiver for _, receiver in at_work.values()])
    number = next(key for key, (_, receiver) in at_work.items() if receiver in ready)
    process, receiver = at_work.pop(number)
    try:
        outcome, error = receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        killed = f"its process was killed by signal {-code}"
        outcome, error = None, killed if code < 0 else f"its process ended with {code}"
    process.join()
    return number, outcome, error


@contextmanager
def _one_thread() -> Iterator[None]:
    """A process that is started inside computes with one thread."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(piece: Piece[Any], sender: Connection) -> None:
    """What a process does."""
    _end_with_parent()
    torch.set_num_threads(1)
    piece.log.parent.mkdir(parents=True, exist_ok=True)
    with piece.log.open("a", encoding="utf-8") as stream, redirect_stderr(stream):
        try:
            given = piece.work(*piece.arguments, narrator=Narrator(5, stream))
        except BaseException as error:
            text = " ".join(str(error).split())
            sender.send((None, text or type(error).__name__))
            raise SystemExit(1) from error
    sender.send((given, ""))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

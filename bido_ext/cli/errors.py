# SPDX-License-Identifier: Apache-2.0
"""Errors of the commands: one sentence on stderr and an exit code, no traceback."""

from __future__ import annotations

import functools
import math
import os
import select
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec

import typer

from bido_ext.cli import MISSING_LAB
from bido_ext.cli.own_options import as_typed, in_words_of

P = ParamSpec("P")

FAILURE, BAD_INPUT, INTERRUPTED, READER_GONE = 1, 2, 130, 141


def plain_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Wrap a command; ``BIDO_EXT_DEBUG=1`` in the environment shows tracebacks instead."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        if os.environ.get("BIDO_EXT_DEBUG"):
            command(*args, **kwargs)
            return
        try:
            _check_numbers(kwargs)
            with _notes():
                command(*args, **kwargs)
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            without = " (without --fresh)" if kwargs.get("fresh") else ""
            _stop(f"interrupted; the same command{without} continues where it stopped", INTERRUPTED)
        except (ValueError, TypeError, FileNotFoundError) as error:
            told = _of_weights(error, command, kwargs) or _of_path(error, command, kwargs)
            _stop(told or in_words_of(command, _sentence(error)), BAD_INPUT)
        except ModuleNotFoundError as error:
            typer.echo(MISSING_LAB.format(name=error.name), err=True)
            raise typer.Exit(FAILURE) from None
        except Exception as error:
            if isinstance(error, BrokenPipeError) and not _output_is_read():
                raise typer.Exit(READER_GONE) from None
            if told := _of_path(error, command, kwargs):
                _stop(told, BAD_INPUT)
            from bido_ext.lab.data.atomic import NotWrittenError  # imports PyTorch

            hint = f" ({type(error).__name__}; BIDO_EXT_DEBUG=1 shows where)"
            _stop(_sentence(error) + ("" if isinstance(error, NotWrittenError) else hint), FAILURE)

    return wrapped


def _output_is_read() -> bool:
    """Whether stdout still has a reader; one such as ``head`` has seen enough and leaves."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors are told in any case
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return True
    # The interpreter's own flush at exit must not fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return False


def _of_weights(
    error: BaseException, command: Callable[..., Any], options: Mapping[str, Any]
) -> str | None:
    """A refusal of a file of weights under the name of the option that gave it; None: it is none."""
    if not hasattr(error, "told"):
        return None
    from bido_ext.lab.models.wanted import WeightsFileError  # imports PyTorch

    if not isinstance(error, WeightsFileError):
        return None
    file, told = os.path.abspath(error.path), _text(error.told)
    name = _giving(file, options)
    return told if name is None else f"{as_typed(command, name)}: {told}"


def _giving(file: str, options: Mapping[str, Any]) -> str | None:
    """The option whose value is ``file``, else that of the nearest folder that holds it."""
    lengths: dict[str, int] = {}
    for name, value in options.items():
        for given in value if isinstance(value, list) else [value]:
            if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
                continue
            path = os.path.abspath(os.fspath(given))
            # A word such as the name of a data set is no folder.
            inside = isinstance(given, os.PathLike) and file.startswith(path + os.sep)
            if path == file or inside:
                lengths[name] = max(len(path), lengths.get(name, 0))
    return max(lengths, key=lambda name: lengths[name]) if lengths else None


def _of_path(
    error: BaseException, command: Callable[..., Any], options: Mapping[str, Any]
) -> str | None:
    """A refusal of the system that concerns a path among the options; None: it does not."""
    if not isinstance(error, OSError) or not error.filename or not error.strerror:
        return None
    where = os.path.abspath(os.fsdecode(error.filename))
    for name, value in options.items():
        if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
            continue
        given = os.path.abspath(os.fspath(value))
        # A file is first written under another name beside it.
        beside = os.path.dirname(where) == os.path.dirname(given)
        if beside or where.startswith(given + os.sep) or given.startswith(where + os.sep):
            return (
                f"{as_typed(command, name)}: the system refuses {os.fspath(value)!r} ({error.strerror}); "
                "give another path, or the rights it needs"
            )
    return None


def _check_numbers(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} must be a finite number, got {value}")


@contextmanager
def _notes() -> Iterator[None]:
    """Warnings that are meant for users come as a sentence, without a line of code."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def sentence(
            message: Warning | str, category: type[Warning], *where: Any, **more: Any
        ) -> None:
            if category.__module__.startswith("bido_ext."):
                typer.echo(f"bido: note: {message}", err=True)
            # Of images that large the error speaks.
            elif category.__name__ != "DecompressionBombWarning":
                show(message, category, *where, **more)

        warnings.showwarning = sentence  # type: ignore[assignment]
        yield


def _sentence(error: BaseException) -> str:
    return _text(str(error)) or type(error).__name__


def _text(message: str) -> str:
    # Names on disk need not be UTF-8.
    return " ".join(os.fsencode(message).decode("utf-8", "backslashreplace").split())


def _stop(message: str, code: int) -> Any:
    typer.echo(f"bido: {message}", err=True)
    raise typer.Exit(code)

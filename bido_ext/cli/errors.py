# SPDX-License-Identifier: Apache-2.0
"""Errors of the commands: one sentence on stderr and an exit code, no traceback."""

from __future__ import annotations

import functools
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec

import typer

from bido_ext.cli import MISSING_LAB

P = ParamSpec("P")

FAILURE, BAD_INPUT, INTERRUPTED = 1, 2, 130


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
            _stop(_sentence(error), BAD_INPUT)
        except ModuleNotFoundError as error:
            typer.echo(MISSING_LAB.format(name=error.name), err=True)
            raise typer.Exit(FAILURE) from None
        except Exception as error:
            from bido_ext.lab.data.atomic import NotWrittenError  # imports PyTorch

            hint = f" ({type(error).__name__}; BIDO_EXT_DEBUG=1 shows where)"
            _stop(_sentence(error) + ("" if isinstance(error, NotWrittenError) else hint), FAILURE)

    return wrapped


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
    # Names on disk need not be UTF-8.
    text = os.fsencode(str(error)).decode("utf-8", "backslashreplace")
    return " ".join(text.split()) or type(error).__name__


def _stop(message: str, code: int) -> Any:
    typer.echo(f"bido: {message}", err=True)
    raise typer.Exit(code)

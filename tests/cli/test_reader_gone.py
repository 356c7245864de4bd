# SPDX-License-Identifier: Apache-2.0
"""``bido doctor | head -1``: a reader that leaves is no failure; another broken pipe is one."""

from __future__ import annotations

import os
import sys

import pytest
import typer

from bido_ext.cli.errors import FAILURE, READER_GONE, plain_errors


@plain_errors
def command() -> None:
    raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize(("leaves", "code"), [(True, READER_GONE), (False, FAILURE)])
def test_who_has_gone(leaves, code, monkeypatch, capsys):
    reader, writer = os.pipe()
    if leaves:
        os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(typer.Exit) as stopped:
            command()
        monkeypatch.undo()
    if not leaves:
        os.close(reader)
    assert stopped.value.exit_code == code
    assert ("Broken pipe" in capsys.readouterr().err) is not leaves

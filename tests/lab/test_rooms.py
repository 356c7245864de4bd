# SPDX-License-Identifier: Apache-2.0
"""The lab is a few rooms with nothing loose beside them, and imports between them go one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from bido_ext import lab

LAB = Path(lab.__file__).parent
#: Each may import what stands before it.
ROOMS = (
    *("data", "models", "defences", "training", "attacks"),
    *("judging", "report", "experiments", "study"),
)
LOOSE = {"__init__.py"}


def test_nothing_lies_outside_the_rooms() -> None:
    found = {path.name for path in LAB.iterdir() if path.name != "__pycache__"}
    assert found == {*ROOMS} | LOOSE


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_those_before_it(room: str) -> None:
    allowed = {*ROOMS[: ROOMS.index(room) + 1]}
    for path in (LAB / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bido_ext.lab."):
                assert node.module.split(".")[2] in allowed, f"{path} imports {node.module}"
            if isinstance(node, ast.Import):
                assert not any(name.name.startswith("bido_ext.lab") for name in node.names), path

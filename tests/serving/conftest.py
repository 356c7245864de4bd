# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the implementations of a GPU, on the CPU, with a cache of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bido_ext.serving import choose, implementations, measure
from bido_ext.serving.row import ROWS, Function, default_of, named

CPU = torch.device("cpu")
Functions = dict[str, Function]


def defaults(op: str) -> Functions:
    return {name: default_of(name) for name in ROWS[op].functions}


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("BIDO_EXT_CACHE_DIR", str(tmp_path))
    choose.forget()
    yield
    choose.forget()


class StandIns:
    """Implementations of an op by name, each with a time of its own.

    Attributes:
        timed: How often the candidates were timed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there: dict[str, Functions] = {}
        self.milliseconds: dict[str, float] = {}
        self.timed = 0
        monkeypatch.setattr(choose, "functions_of", self._functions_of)
        monkeypatch.setattr(measure, "times", self._times)
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: False)

    def _functions_of(self, op: str, implementation: str) -> Functions:
        if implementation in ("reference", "composition"):
            return implementations.functions_of(op, implementation)
        return self.there.get(implementation, {})

    def _times(self, steps: dict[str, object], device: object) -> dict[str, float]:
        self.timed += 1
        for step in steps.values():
            step()  # type: ignore[operator]
        return {name: self.milliseconds[name] for name in steps}

    def add(self, implementation: str, milliseconds: float, functions: Functions) -> Functions:
        self.there[implementation], self.milliseconds[implementation] = functions, milliseconds
        return functions

    def chosen(self, n: int = 9) -> Function:
        """What serves double_center of an n x n matrix."""
        return choose.choose("double_center", named("double_center", [torch.rand(n, n)]), CPU)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> StandIns:
    return StandIns(monkeypatch)


@pytest.fixture
def right() -> Callable[[], Functions]:
    """A new right implementation of double_center each time."""

    def make() -> Functions:
        function = default_of("double_center")
        return {"double_center": lambda K: function(K)}

    return make

# SPDX-License-Identifier: Apache-2.0
"""Finds the cases: those of an op live in benchmarks/ops/<op>.py (the stem of the op), the steps in
benchmarks/bido_step.py.
"""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.case import CaseSpec, OpCase

OPS = ("gaussian_gram", "gram_stack", "double_center", "hsic", "nhsic", "coco", "cka")
STEP_MEASURES = ("nhsic", "coco", "hsic")


def build(spec: CaseSpec) -> OpCase:
    """The case of a spec.

    Raises:
        ValueError: No such benchmark.
    """
    module, argument = _locate(spec.name)
    return module.case(spec, *argument)


def default_specs(name: str, smoke: bool = False) -> list[CaseSpec]:
    """The shapes a benchmark runs when none are given; with smoke, tiny ones."""
    module, argument = _locate(name)
    return module.smoke(*argument) if smoke else module.defaults(*argument)


def _locate(name: str) -> tuple[Any, tuple[str, ...]]:
    if name in OPS:
        return importlib.import_module(f"benchmarks.ops.{name}"), ()
    measure = name.removeprefix("bido_step_")
    if measure in STEP_MEASURES and name != measure:
        return importlib.import_module("benchmarks.bido_step"), (measure,)
    steps = ", ".join(f"bido_step_{m}" for m in STEP_MEASURES)
    raise ValueError(f"no benchmark is called {name!r}; there are {', '.join(OPS)}, {steps}.")

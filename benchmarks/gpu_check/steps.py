# SPDX-License-Identifier: Apache-2.0
"""The steps of gpu_check in order of worth, and the commands each consists of.

A step gets its share of the time that is left (schedule.py). Results are written by the commands themselves, as
soon as they have them.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FAMILIES = ("hsic", "nhsic", "gram_stack", "gaussian_gram", "double_center")
#: As benchmarks.registry has them, whose import takes a second of the budget.
STEP_MEASURES = ("nhsic", "hsic", "coco")
RIVALS = ("published", "shared_eager", "compiled", "hand_backward")
Commands = list[list[str]]


@dataclass(frozen=True)
class Step:
    """A name, the seconds it should get of 510, its commands for (device, out), and what it brings.

    Attributes:
        evenly: Whether its commands share its time evenly, so that one that hangs leaves time to the others.
        package: What it imports beside PyTorch; without it the step is left out, and the table says so.
    """

    name: str
    seconds: float
    commands: Callable[[str, Path], Commands]
    brings: str
    evenly: bool = False
    package: str = ""

    @property
    def lacks(self) -> str:
        """The package that is not installed, or nothing."""
        absent = self.package and importlib.util.find_spec(self.package) is None
        return self.package if absent else ""


def module(name: str, *arguments: str) -> list[str]:
    """A module of this package's repository, run by this Python."""
    return [sys.executable, "-m", name, *arguments]


def facts(device: str, out: Path) -> Commands:
    """The card's own rates."""
    return [
        module("benchmarks.gpu_check.facts", "--device", device, "--out", f"{out / 'facts.json'}")
    ]


def right(device: str, out: Path) -> Commands:
    """Each family in a process of its own: a fault in one leaves the others."""
    where = ("--device", device, "--out", f"{out / 'right.jsonl'}")
    # On a CPU two families show that the step works; the others are tested there anyway.
    families = FAMILIES[:2] if device == "cpu" else FAMILIES
    return [module("benchmarks.gpu_check.right", family, *where) for family in families]


def headline(device: str, out: Path) -> Commands:
    """Pairs beside the rivals, then every family and implementation."""
    pairs = module("benchmarks.run", "--device", device, "--json", f"{out / 'pairs.json'}")
    each = module(
        "benchmarks.implementations", "--device", device, "--json", f"{out / 'headline.json'}"
    )
    if device == "cpu":
        few = ["--smoke", "--no-memory", "--rivals", "hand_backward"]
        return [[*pairs, "--op", "hsic", "nhsic", "coco", *few], [*each, "--smoke"]]
    rivals = ["--d", "2048", "--rivals", *RIVALS, "--no-memory"]
    return [
        [*pairs, "--op", "hsic", "--n", "4096", "1024", *rivals],
        [*each, "--dtypes", "float32", "--precision", "highest"],
        [*each, "--dtypes", "float32", "--precision", "high"],
        [*each, "--dtypes", "bfloat16"],
        [*pairs, "--op", "nhsic", "coco", "--n", "1024", "256", *rivals],
    ]


def step(device: str, out: Path) -> Commands:
    """The BiDO step of every measure as graph and eagerly, then beside all rivals."""
    launches = module(
        "benchmarks.gpu_check.launches", "--device", device, "--out", f"{out / 'launches.json'}"
    )
    steps = module(
        "benchmarks.run", "--device", device, "--json", f"{out / 'step.json'}", "--no-memory"
    )
    if device == "cpu":
        few = ["--smoke", "--rivals", "published", "shared_eager", "hand_backward"]
        return [launches, [*steps, "--step", *STEP_MEASURES, *few]]
    return [
        launches,
        # The published batch size and a large one first: torch.compile may take the rest of the time.
        *(
            [*steps, "--step", m, "--n", "64", "1024", "256", "--rivals", *RIVALS]
            for m in STEP_MEASURES
        ),
    ]


def training(device: str, out: Path) -> Commands:
    """The number users feel."""
    run = module("benchmarks.train_step", "--device", device, "--json", f"{out / 'training.json'}")
    if device == "cpu":
        return [[*run, "--measure", "hsic", "--n", "2", "--rivals"]]
    return [
        [*run, "--measure", "nhsic", "--n", "64", "512"],
        [*run, "--measure", "hsic", "--n", "64", "512", "4096"],
    ]


def streaming(device: str, out: Path) -> Commands:
    """The size no dense form reaches."""
    n, d = ("1024", "64") if device == "cpu" else ("65536", "2048")
    size = ("--op", "hsic", "--n", n, "--d", d, "--modes", "streaming", "--no-gate-above", "16384")
    where = ("--device", device, "--json", f"{out / 'pairs.json'}")
    return [module("benchmarks.run", *size, "--rivals", *where)]


def tests(device: str, out: Path) -> Commands:
    """The suite; without a GPU it is collected, which shows that it would start."""
    how = "--collect-only" if device == "cpu" else "--maxfail=20"
    files = ("tests/test_gpu.py", "tests/test_gpu_large_n.py")
    return [module("pytest", "-q", "-m", "gpu and not slow", how, *files)]


def sanitizer(device: str, out: Path) -> Commands:
    """One small shape a family under memcheck, then under racecheck."""
    if device == "cpu":
        return []
    one = ("--device", device, "--small", "--out", "/dev/null")
    return [
        ["compute-sanitizer", "--tool", tool, "--error-exitcode", "3",
         *module("benchmarks.gpu_check.right", family, *one)]
        for tool in ("memcheck", "racecheck")
        for family in FAMILIES
    ]  # fmt: skip


STEPS = (
    Step("facts", 15, facts, "the card's copy and product rates: the floors"),
    Step("right", 60, right, "every kernel, dtype and precision against float64", evenly=True),
    Step(
        "headline", 120, headline, "each op by every implementation, beside the rivals", evenly=True
    ),
    Step("step", 75, step, "the BiDO step, eager and as a graph, its launches", evenly=True),
    Step(
        "training",
        60,
        training,
        "a VGG16 training step with and without BiDO",
        package="torchvision",
    ),
    Step("streaming", 30, streaming, "n = 65,536"),
    Step("tests", 60, tests, "pytest -m gpu"),
    Step("sanitizer", 90, sanitizer, "memcheck and racecheck", evenly=True),
)

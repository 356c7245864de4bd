# SPDX-License-Identifier: Apache-2.0
"""The ``bido`` command lines that repeat a run or one row of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bido_ext.lab.experiments.presets import DEMO_ATTACK


@dataclass(frozen=True)
class Commands:
    """Command lines of one run.

    Attributes:
        preset: Name of the preset.
        seed: Seed of every random stream.
        out: Folder of the run.
        data_root: torchvision-style MNIST folder, or None.
    """

    preset: str
    seed: int
    out: Path
    data_root: Path | None

    def demo(self) -> str:
        """The whole run."""
        return self._line("demo", *self._shared(), "--out", str(self.out))

    def row(self, name: str, defence: str, weights: Mapping[str, float]) -> tuple[str, ...]:
        """The steps behind one attacked model, in order."""
        evaluator, gan = self.out / "evaluator", self.out / "gan"
        model, attack = self.out / "defences" / name, self.out / "attacks" / DEMO_ATTACK.name / name
        given = ",".join(f"{key}={value:g}" for key, value in weights.items())
        defended = ["--defence", defence, *(["--weights", given] if given else [])]
        shared = self._shared()
        return (
            self._line("train", "--evaluator", *shared, "--out", str(evaluator)),
            self._line("train", *defended, *shared, "--out", str(model)),
            self._line(
                "attack",
                str(model / "model.pt"),
                *("--prior", str(gan)),
                *(*shared, "--out", str(attack)),
            ),
            self._line(
                "evaluate",
                str(attack / "reconstructions.pt"),
                *("--evaluator", str(evaluator / "model.pt")),
                *("--preset", self.preset, *self._data()),
            ),
        )

    def _shared(self) -> list[str]:
        return ["--preset", self.preset, "--seed", str(self.seed), *self._data()]

    def _data(self) -> list[str]:
        return [] if self.data_root is None else ["--data", str(self.data_root)]

    @staticmethod
    def _line(*parts: str) -> str:
        return shlex.join(["bido", *parts])

# SPDX-License-Identifier: Apache-2.0
"""What is trained and what is attacked: the rows of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.lfw.networks import TAPS

ATTACKS = ("gmi", "ked", "ppa")


@dataclass(frozen=True)
class Cell:
    """One trained classifier.

    Attributes:
        defence, weights: As in ``bido_ext.lab.defences``.
        attacks: Attacks that are run on it; none for a classifier that shows the ladder alone.
        seed: Of its training.
        epochs: Other than the run's; None takes those.
        taps: Layers that BiDO's terms see.
    """

    defence: str
    weights: Mapping[str, float] = field(default_factory=dict)
    attacks: tuple[str, ...] = ("gmi",)
    seed: int = 0
    epochs: int | None = None
    taps: tuple[str, ...] = TAPS

    @property
    def name(self) -> str:
        """Folder name, unique within the table."""
        weights = [f"{value:g}" for value in self.weights.values()]
        epochs = [] if self.epochs is None else [f"e{self.epochs}"]
        taps = [] if self.taps == TAPS else list(self.taps)
        return "-".join([self.defence, *weights, *taps, *epochs, f"s{self.seed}"])

    @property
    def pictured(self) -> bool:
        """Whether its reconstructions are in the picture: attacked in every way, first seed."""
        return self.seed == 0 and self.attacks == ATTACKS


def _bido(lambda_x: float, lambda_y: float) -> dict[str, float]:
    return {"lambda_x": lambda_x, "lambda_y": lambda_y}


def _hsic(lambda_x: float, lambda_y: float, *attacks: str, **more: Any) -> Cell:
    return Cell("bido-hsic", _bido(lambda_x, lambda_y), attacks, **more)


def _coco(lambda_x: float, lambda_y: float, *attacks: str, **more: Any) -> Cell:
    return Cell("bido-coco", _bido(lambda_x, lambda_y), attacks, **more)


MID = {"beta": 0.01}
SEEDS = (0, 1, 2)
# Attacked in every way, trained from every seed.
FULL = tuple(
    cell
    for seed in SEEDS
    for cell in (
        Cell("none", attacks=ATTACKS, seed=seed),
        Cell("mid", MID, ATTACKS, seed=seed),
        _hsic(0.42, 1, *ATTACKS, seed=seed),
        _hsic(0.5, 1, *ATTACKS, seed=seed),
        _coco(400, 10, *ATTACKS, seed=seed),
    )
)
# Is a defence more than a worse classifier? Undefended ones of the same accuracy, trained shorter.
SHORT = (Cell("none", epochs=16), Cell("none", epochs=20))
SWEEP = (
    _hsic(0.05, 0.5, "gmi"),  # the published weights
    _hsic(0.2, 1, "gmi"),
    _hsic(0.35, 1, "gmi"),
    _hsic(0.45, 1, "gmi"),
    _hsic(0.47, 1, "gmi"),
    _hsic(1, 2.5, "gmi"),
    _hsic(2, 5, "gmi"),
    _hsic(0.5, 1, "gmi", taps=TAPS[-1:]),
    _hsic(0.5, 1, "gmi", taps=TAPS[-2:]),
    _coco(1000, 20, "gmi"),
    _coco(1000, 50, "gmi"),
    _hsic(1, 1, "gmi"),
    _coco(200, 10, "gmi"),
    _coco(300, 50, "gmi"),
)
# The accuracy ladder of the published checkpoints: accuracy falls with lambda_y at a fixed lambda_x,
# and lambda_x alone destroys training.
LADDER = (_hsic(0.05, 1), _hsic(0.05, 2.5), _hsic(0.1, 0))
CELLS: tuple[Cell, ...] = (*FULL, *SHORT, *LADDER, *SWEEP)

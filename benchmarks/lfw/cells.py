# SPDX-License-Identifier: Apache-2.0
"""What is trained and what is attacked: the rows of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """One trained classifier.

    Attributes:
        defence, weights: As in ``bido_ext.lab.defences``.
        attacks: Attacks that are run on it; none for a classifier that shows the ladder alone.
        seed: Of its training.
        epochs: Other than the run's; None takes those.
    """

    defence: str
    weights: Mapping[str, float] = field(default_factory=dict)
    attacks: tuple[str, ...] = ("gmi",)
    seed: int = 0
    epochs: int | None = None

    @property
    def name(self) -> str:
        """Folder name, unique within the table."""
        weights = [f"{value:g}" for value in self.weights.values()]
        epochs = [] if self.epochs is None else [f"e{self.epochs}"]
        return "-".join([self.defence, *weights, *epochs, f"s{self.seed}"])


def _bido(lambda_x: float, lambda_y: float) -> dict[str, float]:
    return {"lambda_x": lambda_x, "lambda_y": lambda_y}


NONE = Cell("none")
PUBLISHED = Cell("bido-hsic", _bido(0.05, 0.5))
# The accuracy ladder of the published checkpoints: accuracy falls with lambda_y at a fixed lambda_x,
# and lambda_x alone destroys training.
LADDER = (
    Cell("bido-hsic", _bido(0.05, 1), attacks=()),
    Cell("bido-hsic", _bido(0.05, 2.5), attacks=()),
    Cell("bido-hsic", _bido(0.1, 0), attacks=()),
)
# Is a defence more than a worse classifier? An undefended one of the same accuracy, trained shorter.
SHORT = Cell("none", epochs=16)
CELLS: tuple[Cell, ...] = (
    NONE,
    SHORT,
    Cell("mid", {"beta": 0.01}),
    PUBLISHED,
    Cell("bido-hsic", _bido(0.2, 1)),
    Cell("bido-hsic", _bido(0.35, 1)),
    Cell("bido-hsic", _bido(0.5, 1)),
    Cell("bido-hsic", _bido(1, 1)),
    Cell("bido-coco", _bido(200, 10)),
    Cell("bido-coco", _bido(300, 50)),
    Cell("bido-coco", _bido(1000, 50)),
    *LADDER,
    Cell("none", seed=1),
)

# SPDX-License-Identifier: Apache-2.0
"""One rank's part of a search over several, for tests/lab/test_attack_ranks.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bido_ext.lab.attacks import ATTACKS, Generator
from bido_ext.lab.attacks.diffusion import DiffusionPrior, UNet
from bido_ext.lab.attacks.ranks import Ranks
from bido_ext.lab.attacks.rows import Rows
from bido_ext.lab.attacks.search import Keep, Search, run_search
from bido_ext.lab.models import build_model

STEPS, BATCH = 9, 2
ROWS = Rows.of([0, 1, 2], restarts=3, outputs=3, seed=4)


class StoppedError(Exception):
    """Where a kill would be."""


class Toy(Search):
    """Adam towards a point of the row's own, with noise; raises at ``stop`` (batch's first row, step)."""

    def __init__(self, rows: Rows, stop: tuple[int, int] | None) -> None:
        self.rows, self.stop = rows, stop
        self.params = {"latents": rows.starts(5).requires_grad_()}
        self.optimizer = torch.optim.Adam(self.params.values(), 0.1)

    def losses(self, step: int) -> Tensor:
        if self.stop is not None and step == self.stop[1] and self.rows.restarts[0] >= self.stop[0]:
            raise StoppedError
        wanted = self.rows.wanted(torch.device("cpu"))[:, None].float()
        noise = self.rows.noise("toy", step, 5)
        return ((self.params["latents"] - wanted + 0.1 * noise) ** 2).sum(1)


def search(
    rank: int,
    size: int,
    folder: str | None,
    stop: tuple[int, int] | None = None,
    batch: int = BATCH,
) -> Any:
    """The latents of all rows, or the name of the error."""
    keep = Keep(folder, {"toy": 1}, every=4)
    try:
        found = run_search(
            "toy", lambda rows: Toy(rows, stop), ROWS, STEPS, batch, keep, False, Ranks(rank, size)
        )
    except StoppedError:
        return "stopped"
    return found["latents"]


def of_registry(rank: int, size: int, name: str, folder: str) -> tuple[Tensor, Tensor]:
    """Images and latents of an attack on three classes, each searched twice."""
    torch.manual_seed(0)
    target = build_model("mcnn", 5).eval()
    made: Any = Generator(0.05).eval()
    if name == "diffusion":
        network = UNet(0.1, (1, 32, 32), 4).eval()
        for value in network.parameters():
            torch.nn.init.normal_(value, std=0.1)
        made = DiffusionPrior(network, [], 0.0, Path())
    spec = ATTACKS[name]
    config = spec.settings("smoke")
    twice = {"kept": 2, "selected": 2, "restarts": 2}
    changes = {key: value for key, value in twice.items() if hasattr(config, key)}
    found = spec.run(
        replace(config, batch_size=2, **changes), target, made, [3, 0, 1], run_dir=folder,
        progress=False, ranks=Ranks(rank, size),
    )  # fmt: skip
    return found.images, found.latents


def in_a_row(rank: int, size: int, calls: list[tuple[Any, ...]]) -> list[Any]:
    """Several functions of this file in the same processes, which take seconds to start."""
    return [function(rank, size, *given) for function, *given in calls]


def errors_reach_all(rank: int, size: int) -> str:
    """What each rank hears of the leader's error."""

    def fails() -> None:
        raise ValueError("of the leader")

    try:
        Ranks(rank, size).by_leader(fails)
    except ValueError as error:
        return str(error)
    return "nothing"


def leader_first(rank: int, size: int, folder: str) -> list[bool]:
    """Whether each rank, when it works, finds the leader's file."""
    seen = []

    def work() -> int:
        seen.append((Path(folder) / "done").exists())
        if rank == 0:
            (Path(folder) / "done").touch()
        return rank

    assert Ranks(rank, size).leader_first(work) == rank
    return seen

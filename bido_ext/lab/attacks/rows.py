# SPDX-License-Identifier: Apache-2.0
"""The searches of an attack, one row each, and the random numbers that belong to a row.

A row's numbers depend on (seed, restart, label, purpose) alone: not on the other rows, nor on how
rows are cut into batches, nor on the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Searches side by side, restart after restart and within a restart class after class.

    Attributes:
        labels: the wanted class of each row.
        restarts: number of the restart of each row.
        outputs: how many classes the target has.
        seed: starts every stream.
    """

    labels: tuple[int, ...]
    restarts: tuple[int, ...]
    outputs: int
    seed: int

    @classmethod
    def of(cls, classes: Sequence[int], restarts: int, outputs: int, seed: int) -> Rows:
        """``restarts`` rows for each of ``classes``."""
        labels = tuple(classes) * restarts
        numbers = tuple(restart for restart in range(restarts) for _ in classes)
        return cls(labels, numbers, outputs, seed)

    def __len__(self) -> int:
        return len(self.labels)

    def cut(self, first: int, last: int) -> Rows:
        """Rows ``first`` to ``last - 1``."""
        return Rows(self.labels[first:last], self.restarts[first:last], self.outputs, self.seed)

    def wanted(self, device: torch.device) -> Tensor:
        """The labels as an int64 tensor."""
        return torch.tensor(self.labels, device=device)

    def starts(self, dim: int) -> Tensor:
        """Standard normal latents (rows, dim) to start from, on the CPU.

        A restart's latents are drawn for every class of the target; other seeds share none of them.
        """
        tables = {
            restart: torch.randn(
                self.outputs,
                dim,
                generator=torch.Generator().manual_seed(self._start_seed(restart)),
            )
            for restart in dict.fromkeys(self.restarts)
        }
        pairs = zip(self.restarts, self.labels, strict=True)
        return torch.stack([tables[restart][label] for restart, label in pairs])

    def _start_seed(self, restart: int) -> int:
        return (self.seed * 1_000_003 + restart) % 2**63

    def noise(self, purpose: str, step: int, *shape: int) -> Tensor:
        """Standard normal numbers (rows, *shape) of one step, on the CPU."""
        return torch.stack(
            [torch.randn(*shape, generator=random) for random in self.generators(purpose, step)]
        )

    def uniform(self, purpose: str, step: int, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), (rows, *shape), of one step, on the CPU."""
        return torch.stack(
            [torch.rand(*shape, generator=random) for random in self.generators(purpose, step)]
        )

    def generators(self, purpose: str, step: int) -> list[torch.Generator]:
        """One generator for each row."""
        return [
            torch.Generator().manual_seed(stream_seed(self.seed, restart, label, purpose, step))
            for restart, label in zip(self.restarts, self.labels, strict=True)
        ]


def stream_seed(*parts: int | str) -> int:
    """A 63-bit seed for a stream named by ``parts``; streams of other names are unrelated."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1

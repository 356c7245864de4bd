# SPDX-License-Identifier: Apache-2.0
"""A benchmark is data: an :class:`OpCase` says what is computed, by whom, and what it must cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from benchmarks.problem import Problem
from bido_ext.serving.floor import FloorPart

OWN = "bido_ext"
#: bido_ext without a mode: the regime is its own choice.
PLAIN_MODE = "plain"
#: What ``--modes`` can name.
MODES = (PLAIN_MODE, "streaming")

Implementation = Callable[[Problem], Tensor]


def is_own(name: str) -> bool:
    """Whether an implementation is bido_ext or a mode of it, such as "bido_ext streaming"."""
    return name.split()[0] == OWN


def mode_of(name: str) -> str:
    """The mode of an implementation of bido_ext: "streaming" of "bido_ext streaming"."""
    return name.removeprefix(OWN).strip() or PLAIN_MODE


@dataclass(frozen=True)
class CaseSpec:
    """Names a case; JSON can carry it to another process.

    Attributes:
        name: An op of :data:`benchmarks.registry.OPS`, or "bido_step_<measure>".
        n: Number of samples.
        dims: Numbers of columns: (d,) of a pair or a Gram matrix, (d_1, ..., d_m) of a stack, ()
            of double_center, (d of X, d of Z_1, ...) of a step.
        num_classes: Of the integer labels of a step, else None.
    """

    name: str
    n: int
    dims: tuple[int, ...] = ()
    num_classes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain lists and numbers."""
        return {**asdict(self), "dims": list(self.dims)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CaseSpec:
        """The inverse of :meth:`to_json`."""
        return cls(data["name"], data["n"], tuple(data["dims"]), data["num_classes"])

    def with_rows(self, n: int) -> CaseSpec:
        """The same case with another number of samples."""
        return CaseSpec(self.name, n, self.dims, self.num_classes)


@dataclass(frozen=True)
class OpCase:
    """One benchmark.

    Attributes:
        spec: Its name and shapes.
        make: Builds the float32 inputs on the CPU; the harness moves and rounds them.
        implementations: By name; each returns a differentiable value, the harness takes the
            gradient with respect to ``Problem.layers``.
        truth: The textbook value of a float64 problem; differentiable.
        floor: Products (or copies) that no implementation can do without.
        bytes_moved: Compulsory traffic of value and gradient in float32, in bytes.
    """

    spec: CaseSpec
    make: Callable[[], Problem]
    implementations: Mapping[str, Implementation]
    truth: Implementation
    floor: tuple[FloorPart, ...]
    bytes_moved: int

    @property
    def flops(self) -> float:
        """Arithmetic of the floor, in floating-point operations (the n^3 part excluded)."""
        return sum(part.flops for part in self.floor if part.kind != "cubic")


def feature_bytes(n: int, fixed: tuple[int, ...], layers: tuple[int, ...]) -> int:
    """Compulsory float32 bytes: fixed features read once, layers read twice and their gradient
    written, and per layer 1.5 n x n matrices (target, weights written, weights read; triangles).
    """
    return 4 * (n * sum(fixed) + 3 * n * sum(layers)) + len(layers) * 6 * n * n

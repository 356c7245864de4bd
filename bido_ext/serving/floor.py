# SPDX-License-Identifier: Apache-2.0
"""The floor: the matrix products no implementation can do without, at the speed of this machine's BLAS.

A Gram matrix is symmetric, so its forward needs half an n x n x d product; a backward needs one full
one. A pair d(X, Z) thus costs half + half + one = F, the time of one forward and one backward product.
The step floor is the half forward products of X and every layer plus the layers' backward products.
Nothing else (exponentials, centering, n x n traffic) is counted; n^3 work is listed apart ("cubic").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

Call = Callable[[], object]
#: From the bytes of the operands of a call, and what makes one with operands of its own, to the call that is
#: timed.
InTurns = Callable[[int, Callable[[], Call]], Call]


@dataclass(frozen=True)
class FloorPart:
    """``weight`` times one operation.

    Attributes:
        kind: "forward" (n, d) x (d, n); "backward" (n, n) x (n, d); "cubic" (n, n) x (n, n);
            "copy": an n x n matrix copied, the floor of ops without products.
        n, d: Sizes; d is 0 for cubic and copy.
        weight: How many of them: 0.5 for a symmetric product.
    """

    kind: str
    n: int
    d: int
    weight: float

    @property
    def flops(self) -> float:
        """Floating-point operations of the part; a copy has none."""
        if self.kind == "copy":
            return 0.0
        return self.weight * 2 * self.n * self.n * (self.n if self.kind == "cubic" else self.d)


def pair_floor(n: int, d: int, cubic: float = 0.0) -> tuple[FloorPart, ...]:
    """d(X, Z) of two (n, d) variables, value and gradient in Z: exactly F."""
    return step_floor(n, d, (d,), cubic)


def step_floor(
    n: int, input_dim: int, dims: Sequence[int], cubic: float = 0.0
) -> tuple[FloorPart, ...]:
    """A BiDO step; ``cubic`` n x n x n products (n^3 work counted in those) are listed apart."""
    parts = [FloorPart("forward", n, input_dim, 0.5)]
    for d in dims:
        parts += [FloorPart("forward", n, d, 0.5), FloorPart("backward", n, d, 1.0)]
    if cubic:
        parts.append(FloorPart("cubic", n, 0, cubic))
    return tuple(parts)


def gram_floor(n: int, d: int) -> tuple[FloorPart, ...]:
    """One Gram matrix of (n, d), value and gradient."""
    return stack_floor(n, (d,))


def stack_floor(n: int, dims: Sequence[int]) -> tuple[FloorPart, ...]:
    """The Gram matrices of several (n, d), value and gradient: their floors one after the other."""
    return tuple(
        part
        for d in dims
        for part in (FloorPart("forward", n, d, 0.5), FloorPart("backward", n, d, 1.0))
    )


def copy_floor(n: int) -> tuple[FloorPart, ...]:
    """An n x n matrix read and written once forward and once backward."""
    return (FloorPart("copy", n, 0, 2.0),)


def part_name(part: FloorPart) -> str:
    """Parts of one kind and size share one measurement."""
    return f"floor {part.kind} {part.n}x{part.d}" if part.d else f"floor {part.kind} {part.n}"


def one_set(size: int, make: Callable[[], Call]) -> Call:
    """The same operands in every call."""
    return make()


def floor_calls(
    parts: Iterable[FloorPart],
    dtype: torch.dtype,
    device: str | torch.device,
    in_turns: InTurns = one_set,
) -> dict[str, Call]:
    """One measurable call for each distinct part; operands and results are allocated here.

    Args:
        in_turns: Whether several operands take turns, as the inputs of everyone else may.
    """
    calls: dict[str, Call] = {}
    for part in parts:
        name = part_name(part)
        if name not in calls:
            size = part.n * max(part.d, part.n if part.kind != "forward" else 1) * dtype.itemsize
            calls[name] = in_turns(size, partial(_call, part, dtype, device))
    return calls


def _call(part: FloorPart, dtype: torch.dtype, device: str | torch.device) -> Call:
    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=dtype, device=device)

    square = random(part.n, part.n)
    if part.kind == "copy":
        target = torch.zeros_like(square)
        return lambda: target.copy_(square)
    if part.kind == "cubic":
        out = torch.zeros_like(square)
        return lambda: torch.mm(square, square, out=out)
    x = random(part.n, part.d)
    if part.kind == "forward":
        return lambda: torch.mm(x, x.T, out=square)
    grad = torch.zeros_like(x)
    return lambda: torch.mm(square, x, out=grad)


def combine(parts: Iterable[FloorPart], seconds: Mapping[str, float], cubic: bool = False) -> float:
    """Seconds of the floor from the seconds of each call; ``cubic`` adds the n^3 part."""
    chosen = [part for part in parts if cubic or part.kind != "cubic"]
    return sum(part.weight * seconds[part_name(part)] for part in chosen)

# SPDX-License-Identifier: Apache-2.0
"""On paper: what share of an H200 three designs of the forward product can reach, and of the backward one.

    python -m benchmarks.product_model

Nothing here was measured. Per step of a tile's pipeline the model counts the cycles of the matrix unit, of
shared memory (128 bytes a cycle: operands written once, read by every wgmma) and of the four schedulers, and
takes the largest. docs/heavy_product.md says what follows.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

#: Of one H200 (SXM): streaming multiprocessors, bytes a cycle of shared memory.
PROCESSORS, SHARED = 132, 128
#: TF32 multiply-adds a cycle and processor; the rate that cuBLAS reaches of the peak; copy rate, bytes/s.
FMA, PEAK, ATTAINABLE, COPY = 1024, 495e12, 0.8, 4.3e12
LAUNCH = 3e-6
#: Of the table: samples, columns.
SHAPES = ((1024, 12288), (4096, 2048), (4096, 12288), (8192, 2048))
#: How evenly work falls on the processors where the last tiles are split along d.
EVEN = 0.95


@dataclass(frozen=True)
class Design:
    """One way to make the upper triangle of x x' in TF32.

    Attributes:
        rows, columns: Of an output tile.
        planes: 1, or 2 for three products of split operands.
        copies: Whether threads carry the operands (centered, rounded and split on the way), or the bulk copy
            engine does, after a pass that wrote them so.
        symmetric: Whether tiles below the diagonal are left out.
        built: Whether it is the Triton kernel as it was built: no product of the next tile runs beside the
            entries of this one, and only a last round of few tiles is shared along d.
    """

    name: str
    rows: int
    columns: int
    planes: int = 1
    copies: bool = True
    symmetric: bool = True
    built: bool = False


DESIGNS = (
    Design("as it is: registers, 128 x 128", 128, 128),
    Design("TMA, warp-specialised, 128 x 256", 128, 256, copies=False),
    Design("TMA, warp-specialised, 128 x 128", 128, 128, copies=False),
    Design("TMA as built, 128 x 256", 128, 256, copies=False, built=True),
    Design("TMA as built, 128 x 128", 128, 128, copies=False, built=True),
    Design("cuBLAS, whole product", 128, 256, copies=False, symmetric=False),
)
DEPTH = 32
#: Cycles a second. Instructions per entry of the epilogue as built: counted in its machine code for sm_90.
CLOCK = PEAK / (2 * FMA * PROCESSORS)
ENTRY = 40
#: The same of an entry of a gradient; rows of weights that exist at a time (bido_ext/triton_kernels/hsic.py).
GRADIENT_ENTRY, WEIGHT_ROWS = 20, 4096
#: Instructions of a thread per four operands: load, four subtractions, eight of rounding, store; split: more.
INSTRUCTIONS = {1: 14, 2: 26}


def share_of_peak(design: Design) -> float:
    """Of the matrix unit, in the steady state of one tile."""
    r, c = design.rows, design.columns
    products = 3 if design.planes == 2 else 1
    matrix = r * c * DEPTH * products / FMA
    written = (r + c) * DEPTH * 4 * design.planes
    # Every wgmma of 64 rows reads its own rows and all columns.
    read = products * (r / 64) * (64 + c) * DEPTH * 4
    shared = (written + read) / SHARED
    issue = 0.0
    if design.copies:
        issue = (r + c) * DEPTH / 4 / 32 * INSTRUCTIONS[design.planes] / 4
        # A barrier a step, and the loads of the next step, stand between a step and the next.
        shared += 64
    return matrix / max(matrix, shared, issue)


def seconds(design: Design, n: int, d: int) -> float:
    """Of the forward product of one variable, its own pre-pass included."""
    across, down = math.ceil(n / design.columns), math.ceil(n / design.rows)
    tiles = across * down
    if design.symmetric:
        reach = design.columns // design.rows
        tiles = sum(across - i // reach for i in range(down))
    work = tiles * design.rows * design.columns * 2.0 * d
    rate = PEAK * ATTAINABLE * share_of_peak(design)
    if design.built:
        return _as_built(design, tiles, d, rate) + 8.0 * n * d / COPY + 3 * LAUNCH
    pass_before = 0.0 if design.copies else (8.0 * n * d / COPY + LAUNCH)
    if not design.symmetric:
        pass_before = 16.0 * n * d / COPY + 2 * LAUNCH  # mean, and a copy without it
    return work / (rate * EVEN) + pass_before + LAUNCH


def _as_built(design: Design, tiles: int, d: int, rate: float) -> float:
    """Of the rounds of tiles; the pass before and the mirrored blocks on the diagonal are other launches."""
    size = design.rows * design.columns
    of_tile = 2.0 * size * d / (rate / PROCESSORS)
    entries = size * ENTRY / 128 / CLOCK
    rounds, last = divmod(tiles, PROCESSORS)
    time = rounds * (of_tile + entries)
    splits = min(PROCESSORS // last, d // DEPTH) if last else 1
    if splits > 1:  # partial sums are written and read
        time += of_tile / splits + last * splits * size * 8 / COPY + LAUNCH
    elif last:
        time += of_tile + entries
    return time


def seconds_backward(design: Design, n: int, d: int) -> float:
    """Of the product of weights that are there with the features of one variable; nothing is symmetric."""
    rate = PEAK * ATTAINABLE * share_of_peak(design)
    if not design.symmetric:  # the library; the row sums, and rows times them, are other passes
        return 2.0 * n * n * d / (rate * EVEN) + (4.0 * n * n + 20.0 * n * d) / COPY + 3 * LAUNCH
    size = design.rows * design.columns
    of_tile = 2.0 * size * n / (rate / PROCESSORS) + size * GRADIENT_ENTRY / 128 / CLOCK
    time = 0.0
    for begin in range(0, n, WEIGHT_ROWS):
        down = math.ceil(min(WEIGHT_ROWS, n - begin) / design.rows)
        rounds = math.ceil(down * math.ceil(d / design.columns) / PROCESSORS)
        time += rounds * of_tile + LAUNCH
    # Features are written transposed, once.
    return time if design.copies else time + 8.0 * n * d / COPY + LAUNCH


def floor(n: int, d: int) -> float:
    """Half a product at the attainable rate."""
    return n * n * d / (PEAK * ATTAINABLE)


def table() -> str:
    """The table of docs/heavy_product.md, in Markdown."""
    lines = _header(" matrix unit |")
    for design in DESIGNS:
        cells = [f"{seconds(design, n, d) / floor(n, d):.2f}" for n, d in SHAPES]
        lines.append(f"| {design.name} | {share_of_peak(design):.0%} | {' | '.join(cells)} |")
    return "\n".join(lines)


def backward_table() -> str:
    """The same of the backward product; its unit is a whole product."""
    lines = _header("")
    for design in DESIGNS:
        if design.copies or design.built or not design.symmetric:
            cells = [f"{seconds_backward(design, n, d) / floor(n, d) / 2:.2f}" for n, d in SHAPES]
            lines.append(f"| {design.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _header(more: str) -> list[str]:
    shapes = " | ".join(f"n = {n}, d = {d}" for n, d in SHAPES)
    return [f"| design |{more} {shapes} |", "|---|" + "---:|" * (len(SHAPES) + bool(more))]


if __name__ == "__main__":
    print(table())
    print(backward_table())
    sys.exit(0)

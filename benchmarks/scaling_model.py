# SPDX-License-Identifier: Apache-2.0
"""Cost model of a BiDO step of a global batch: work, bytes and messages per rank, and what follows.

python -m benchmarks.scaling_model      # the tables of docs/scaling.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bido_ext.ops.exchange import Exchange, exchange_of_ring, exchange_of_step
from bido_ext.ops.plan import FLOAT64_UP_TO
from bido_ext.ops.ring_memory import GIB, gathered_bytes, passing_bytes


@dataclass(frozen=True)
class Cost:
    """Per rank and step.

    Attributes:
        product_flops: In products of n x n matrices with features; 2 for each multiply and add.
        algebra_flops: In products and factorisations of n x n matrices.
        exchange: Bytes received and messages.
    """

    product_flops: float
    algebra_flops: float
    exchange: Exchange


def cost_of_step(
    n: int,
    dims: Sequence[int],
    measure: str,
    world_size: int = 1,
    itemsize: int = 4,
    rows: int | None = None,
    exchange: str = "gather",
    keep: bool = True,
) -> Cost:
    """The cost of value and gradient, for one rank.

    Args:
        n: Samples of all ranks.
        dims: Widths of X, of every layer, and of the targets (0: integer labels).
        measure: "hsic", "cka" (row panels), "nhsic" or "coco" (whole on every rank).
        world_size: Ranks; 1 takes the kernels of one process, which save the symmetric half.
        itemsize: Bytes of a feature.
        rows: Of this rank; default n / world_size.
        exchange: "gather" or "ring".
        keep: Whether the ring keeps its panels of Gram matrices for the second trip.
    """
    most = -(-n // world_size)
    rows = most if rows is None else rows
    layers = dims[1:-1]
    if exchange == "ring":
        element = 8 if measure == "nhsic" else max(itemsize, 4)
        counts = [most] * world_size
        moved = exchange_of_ring(counts, 0, dims, itemsize, element, measure, keep)
    else:
        moved = exchange_of_step(most, dims, itemsize, measure, world_size)
    # The rank's rows of every Gram matrix, then its rows of every layer's weights.
    share = 2.0 * rows * n * (sum(dims) * (1 if keep else 2) + sum(layers))
    if world_size > 1 and measure in ("hsic", "cka"):
        return Cost(share, 0.0, moved)
    products = n * n * (1.0 * sum(dims) + 2.0 * sum(layers))
    if exchange == "ring":
        products = share
    algebra = 0.0
    if measure == "nhsic":
        # Cholesky and inverse of X and of each layer; P T P in the backward.
        algebra = n**3 * (1.0 * (len(layers) + 1) + 4.0 * len(layers))
    elif measure == "coco":
        # Frobenius: the square of X and one product of each layer with it, float32 algebra two products of
        # each layer; labels take n^2.
        algebra = n**3 * (2.0 + 2.0 * len(layers) if n <= FLOAT64_UP_TO else 4.0 * len(layers))
    return Cost(products, algebra, moved)


@dataclass(frozen=True)
class Setup:
    """A training whose step without BiDO is known.

    Attributes:
        dims: Widths of X and of the tapped layers, then 0.
        samples_per_second: Of one GPU, training without BiDO; assumed.
        itemsize: Bytes of a feature on the wire and in memory.
    """

    name: str
    dims: tuple[int, ...]
    samples_per_second: float
    itemsize: int


@dataclass(frozen=True)
class Gpu:
    """What one GPU is assumed to reach: products in flop/s, and bytes/s from other ranks."""

    flops: float
    bandwidth: float
    latency: float = 2e-5


#: Assumptions, not measurements: float32 products without tensor cores, a 400 Gbit/s port per GPU.
ASSUMED = Gpu(flops=5e13, bandwidth=4e10)
SETUPS = (
    Setup(
        "VGG16, 64x64, five stages (BiDO's)", (12288, 65536, 32768, 16384, 8192, 2048, 0), 12000, 4
    ),
    Setup(
        "ResNet-50, 224x224, pooled stages, X pooled to 32x32",
        (3072, 256, 512, 1024, 2048, 0),
        2500,
        2,
    ),
    Setup(
        "ViT-B/16, 224x224, class token of 3 blocks, X pooled", (3072, 768, 768, 768, 0), 1000, 2
    ),
)
SHARE = 0.05


def seconds_of_bido(setup: Setup, gpu: Gpu, rows: int, world_size: int) -> float:
    """Modelled seconds that BiDO with hsic adds to a step of ``rows`` samples on each of the ranks."""
    cost = cost_of_step(rows * world_size, setup.dims, "hsic", world_size, setup.itemsize)
    exchange = cost.exchange
    return (
        cost.product_flops / gpu.flops
        + exchange.bytes / gpu.bandwidth
        + exchange.messages * gpu.latency * (world_size > 1)
    )


def share_of_step(setup: Setup, gpu: Gpu, rows: int, world_size: int) -> float:
    """BiDO's seconds over those of the step without it."""
    return seconds_of_bido(setup, gpu, rows, world_size) / (rows / setup.samples_per_second)


def largest_batch(setup: Setup, gpu: Gpu, world_size: int, share: float = SHARE) -> int | None:
    """The largest global batch at which BiDO costs at most ``share`` of a step; None where even the
    exchange alone costs more, whatever the batch."""
    best = None
    for exponent in range(21):
        if share_of_step(setup, gpu, 1 << exponent, world_size) <= share:
            best = world_size << exponent
    return best


def table(gpu: Gpu = ASSUMED) -> str:
    """Batch at which BiDO-HSIC costs 5 % of a step, by setup and ranks; Markdown."""
    ranks = (1, 8, 64, 1024)
    lines = [
        "| training | bytes a sample | "
        + " | ".join(f"{p} GPU{'s' * (p > 1)}" for p in ranks)
        + " |",
        "| --- | ---: |" + " ---: |" * len(ranks),
    ]
    for setup in SETUPS:
        cells = []
        for p in ranks:
            batch = largest_batch(setup, gpu, p)
            share = share_of_step(setup, gpu, 64, p)
            cells.append(f"{batch:,} ({share:.1%})" if batch else f"never ({share:.1%})")
        row = sum(setup.dims) * setup.itemsize + 8
        lines.append(f"| {setup.name} | {row:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def largest_group(setup: Setup, gpu: Gpu, ranks: int, rows: int) -> tuple[int, float]:
    """Ranks (a power of two) of the largest process group with which BiDO costs at most SHARE of a step of
    ``rows`` samples per GPU, and that share; (1, share) where none of several does."""
    group = 1
    while group * 2 <= ranks and share_of_step(setup, gpu, rows, group * 2) <= SHARE:
        group *= 2
    return group, share_of_step(setup, gpu, rows, group)


def table_of_groups(ranks: int = 1024, gpu: Gpu = ASSUMED) -> str:
    """The same training on many GPUs with terms of smaller process groups; Markdown."""
    lines = [
        f"| training on {ranks} GPUs | samples a GPU | ranks of a group | batch of the terms | share |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for setup in SETUPS:
        for rows in (64, 512):
            group, share = largest_group(setup, gpu, ranks, rows)
            lines.append(f"| {setup.name} | {rows} | {group} | {group * rows:,} | {share:.1%} |")
    return "\n".join(lines)


def table_of_exchanges(rows: int = 512) -> str:
    """Features held on a GPU beyond its own, and bytes received, gathered and in the ring; Markdown."""
    lines = [
        f"| hsic, {rows} samples a GPU | GPUs | gathered: GiB held | received | ring: GiB held | received |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for setup in SETUPS:
        for p in (8, 64, 1024):
            n, element = rows * p, max(setup.itemsize, 4)
            widths = [(d, setup.itemsize) for d in setup.dims]
            # Beside all rows, one variable of all without its mean.
            gather = gathered_bytes(n, widths) + n * max(setup.dims) * element
            ring = passing_bytes([rows] * p, setup.dims, setup.itemsize, element)
            moved = [
                cost_of_step(n, setup.dims, "hsic", p, setup.itemsize, exchange=how).exchange.bytes
                for how in ("gather", "ring")
            ]
            cells = [f"{b / GIB:,.2f}" for b in (gather, moved[0], ring, moved[1])]
            lines.append(f"| {setup.name} | {p} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print("\n\n".join([table_of_exchanges(), table(), table_of_groups()]))

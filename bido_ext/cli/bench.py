# SPDX-License-Identifier: Apache-2.0
"""``bido bench``: how fast this installation is on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import Device, Json, print_json


@plain_errors
def bench(
    measure: Annotated[
        str, typer.Option("--measure", help="Measure: hsic, nhsic, coco (Frobenius norm) or cka.")
    ] = "nhsic",
    n: Annotated[int, typer.Option("--n", "-n", help="Samples in a batch.")] = 256,
    dims: Annotated[
        str, typer.Option("--dims", help="Number of columns of X and of each layer, with commas.")
    ] = "3072,2048,512",
    classes: Annotated[
        int | None,
        typer.Option(
            "--classes",
            help="Number of classes of the labels; 0: no labels. Default: 10, or 0 with two --dims.",
        ),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype", help="Type of the features: float32, float64, bfloat16 or float16."
        ),
    ] = "float32",
    device: Device = "auto",
    threads: Annotated[
        int | None,
        typer.Option("--threads", help="Threads of PyTorch. Default: as PyTorch chooses."),
    ] = None,
    json: Json = False,
) -> None:
    """Measure the time of value and gradient on this machine.

    Compares bido_ext and plain PyTorch with the floor: the time of the matrix products that every
    method needs. Errors are measured against float64. If value or gradient is wrong, no time is
    shown. For more rivals and peak memory, run "python -m benchmarks.run" in a clone of the
    repository.

    \b
    Example:
      bido bench --measure nhsic --n 256 --dims 3072,2048,512 --classes 10
      bido bench --measure hsic --n 2048 --dims 512,512 --threads 2 --json
    """
    from bido_ext.lab.experiments.bench import BenchSettings, bench_table, run_bench
    from bido_ext.lab.experiments.pipeline import pick_device

    widths = widths_of(dims)
    if classes is None:
        classes = 0 if len(widths) == 2 else 10
    settings = BenchSettings(measure, n, widths, classes, dtype, threads)
    result = run_bench(settings, pick_device(device))
    if json:
        print_json(result)
        return
    typer.echo(bench_table(result))


def widths_of(text: str) -> tuple[int, ...]:
    """Numbers from "3072,512"."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--dims must be numbers such as 3072,512, got {text!r}") from None

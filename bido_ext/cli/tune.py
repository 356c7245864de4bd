# SPDX-License-Identifier: Apache-2.0
"""``bido tune``: let this machine's GPU choose its implementations before they are needed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from bido_ext.cli.bench import widths_of
from bido_ext.cli.errors import plain_errors
from bido_ext.cli.options import Device, Json, print_json


@plain_errors
def tune(
    n: Annotated[int, typer.Option("--n", "-n", help="Samples in a batch.")] = 256,
    dims: Annotated[
        str, typer.Option("--dims", help="Number of columns of X and of each layer, with commas.")
    ] = "3072,2048,512",
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype", help="Type of the features: float32, float64, bfloat16 or float16."
        ),
    ] = "float32",
    measures: Annotated[
        str, typer.Option("--measures", help="Measures, with commas: hsic, nhsic, coco, cka.")
    ] = "hsic,nhsic,coco,cka",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Check and time the implementations for your shapes.

    The result is kept. On a CUDA device the fastest right implementation is used from then on, also
    in later runs. Without this command the same happens at the first call of an op; it takes about
    50 ms and the time to compile. On a CPU the table is for information: the compiled kernels are always used.

    \b
    Example:
      bido tune --n 256 --dims 12288,65536,8192
      bido tune --n 1024 --dims 2048,2048 --dtype bfloat16 --measures hsic --json
    """
    import torch

    import bido_ext
    from bido_ext.lab.experiments.pipeline import pick_device

    chosen = getattr(torch, dtype, None)
    if not isinstance(chosen, torch.dtype):
        raise ValueError(f"--dtype must be float32, float64, bfloat16 or float16, got {dtype!r}")
    table = bido_ext.tune(
        n,
        widths_of(dims),
        dtype=chosen,
        device=pick_device(device),
        measures=measures.split(","),
    )
    if json:
        print_json(asdict(table))
        return
    typer.echo(str(table))

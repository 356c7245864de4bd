# SPDX-License-Identifier: Apache-2.0
"""``bx.tune``: checks and times the implementations for given shapes before they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bido_ext.ops._plan_arguments import check_count, check_dims
from bido_ext.ops._validate import check_choice
from bido_ext.ops.cka import CkaMeasure
from bido_ext.ops.coco import CocoMeasure
from bido_ext.ops.group import Pairs, make_group
from bido_ext.ops.hsic import HsicMeasure
from bido_ext.ops.measure import Measure
from bido_ext.ops.nhsic import NhsicMeasure
from bido_ext.serving import choose, verdicts
from bido_ext.serving import on_cpu as serving_on_cpu
from bido_ext.serving.limits import features_of
from bido_ext.serving.row import COMPOSITION, Arguments, row_of

MEASURES = ("hsic", "nhsic", "coco", "cka")
CLASSES = 10


@dataclass(frozen=True)
class TuneRow:
    """The measurements of one op.

    Attributes:
        op: Name of the op.
        where: dtype, precision, rows and total width, rounded up to the power of two that shares a decision.
        chosen: The implementation that is used.
        milliseconds: Time of each implementation, forward and backward; words if it does not run or is wrong.
        errors: Largest relative error of each against the float64 reference; words if it failed.
    """

    op: str
    where: str
    chosen: str
    milliseconds: dict[str, float | str]
    errors: dict[str, float | str]


@dataclass(frozen=True)
class Tuning:
    """The result of :func:`bido_ext.tune`: one ``TuneRow`` for each op. Print it to get a table."""

    device: str
    rows: list[TuneRow]

    def __str__(self) -> str:
        cells = [("op", "shapes", "implementation", "ms", "error", "")]
        for row in self.rows:
            for name in row.errors:
                ms, error = row.milliseconds.get(name, "not timed"), row.errors[name]
                cells.append(
                    (
                        row.op,
                        row.where,
                        name,
                        f"{ms:.3f}" if isinstance(ms, float) else str(ms),
                        f"{error:.0e}" if isinstance(error, float) else str(error),
                        "serves" if name == row.chosen else "",
                    )
                )
        widths = [max(len(line[i]) for line in cells) for i in range(6)]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
            for line in cells
        ]
        return "\n".join([f"on {self.device}", *lines])


def tune(
    n: int,
    dims: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    measures: Sequence[str] = MEASURES,
) -> Tuning:
    """Checks and times every implementation for your shapes, and keeps the decisions.

    It runs a BiDO step with an input of dims[0] columns, a layer of each further width, and labels. On a CUDA
    device the fastest right implementation is used from then on, also in later processes. On the CPU the
    table is for information: the compiled kernels are always used.

    Args:
        n: Number of samples in a batch, at least 4.
        dims: Number of columns of the input and of each layer, at least two numbers.
        dtype: dtype of the features: float64, float32, bfloat16 or float16.
        device: "cuda", "cuda:1" or "cpu". Default: the current CUDA device, if there is one.
        measures: Some of "hsic", "nhsic", "coco" and "cka".

    Returns:
        A ``Tuning``: op, shapes, milliseconds and errors of each implementation, and the one that is used.

    Raises:
        ValueError: An argument is not as described above.

    Example:
        >>> print(bx.tune(n=256, dims=[12288, 4096, 512]))
    """
    n = check_count(n, "n", 4)
    widths = check_dims(dims)
    if len(dims) < 2 or min(widths) < 1:
        raise ValueError(
            "dims must be the columns of the input and of at least one layer, none of them 0; "
            f"got {list(dims)}."
        )
    if dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype must be float64, float32, bfloat16 or float16, got {dtype}.")
    if isinstance(measures, str) or not measures:
        raise ValueError(f"measures must be a list of measures, at least one; got {measures!r}.")
    for name in measures:
        check_choice(name, "measures", MEASURES)
    try:
        there = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is none that PyTorch knows.") from error
    if there.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda': there is no CUDA device. Use device='cpu'.")
    found: dict[tuple[str, str], TuneRow] = {}
    for name in measures:
        for function, arguments in _calls_of(_measure_of(name), n, widths, dtype, there):
            row = _measured(function, arguments, there)
            if row is not None:
                found.setdefault((row.op, row.where), row)
    return Tuning(verdicts.device_name(there), list(found.values()))


def _measure_of(name: str) -> Measure:
    of_name = {
        "hsic": HsicMeasure,
        "nhsic": NhsicMeasure,
        "coco": CocoMeasure,
        "cka": CkaMeasure,
    }
    return of_name[name]()


def _calls_of(
    kind: Measure, n: int, widths: Sequence[int], dtype: torch.dtype, device: torch.device
) -> list[tuple[str, Arguments]]:
    """The calls of ops that one forward and backward of a step makes."""
    generator = torch.Generator().manual_seed(0)
    features = [
        torch.rand((n, d), generator=generator).to(device, dtype).requires_grad_(i > 0)
        for i, d in enumerate(widths)
    ]
    labels: list[Tensor] = [(torch.arange(n) % CLASSES).to(device)]
    layers = range(1, len(widths))
    pairs = Pairs([*layers, *layers], [0] * len(layers) + [len(widths)] * len(layers))
    with _collected() as calls:
        group = make_group(features + labels, [None] * (len(widths) + 1), CLASSES)
        kind.values(group, pairs).sum().backward()
    return calls


@contextmanager
def _collected() -> Iterator[list[tuple[str, Arguments]]]:
    calls: list[tuple[str, Arguments]] = []
    choose.collected = serving_on_cpu.collected = calls
    try:
        yield calls
    finally:
        choose.collected = serving_on_cpu.collected = None


def _measured(function: str, arguments: Arguments, device: torch.device) -> TuneRow | None:
    """What is known of a call that was made; what the call had no need to measure is measured now.

    None: a backward, which its forward has told of.
    """
    row = row_of(function)
    if function != row.functions[0]:
        return None
    on_cpu = device.type == "cpu"
    able = choose.candidates(row, arguments, row.on_cpu() if on_cpu else row.on_gpu())
    if "cpu" in able:  # as it serves: with a second try in float64
        able["cpu"] = {name: partial(serving_on_cpu.call, name) for name in row.functions}
    right = choose.right_ones(row, able, arguments, device)
    errors: dict[str, float | str] = dict.fromkeys(able, "")
    for dtype in choose.floating_dtypes(features_of(arguments)):
        for name in able:
            if name != COMPOSITION:
                errors[name] = verdicts.error_of(row.op, name, dtype, device)
    key = choose.bucket(row.op, arguments, right, device)
    times = verdicts.measured(*key)
    if times is None:
        with torch.no_grad():
            times = choose.times_of(row, right, arguments, device) or {}
    default = COMPOSITION if row.composition else "reference"
    chosen = choose.fastest(times) if times else default
    if on_cpu:  # nothing is chosen there: bido_cpu serves what it takes
        chosen = "cpu" if "cpu" in able else default
    return TuneRow(row.op, " ".join(map(str, key[1:5])), chosen, times, errors)

# SPDX-License-Identifier: Apache-2.0
"""What the n x n algebra of nhsic and coco costs on a GPU, by form: calls, flops and bytes.

python -m benchmarks.algebra_model      # the table of docs/scaling.md

Counted from the calls of PyTorch that a step makes on fake tensors of a GPU, not timed. A call that launches a
kernel is a launch; a factor of cuSOLVER or cuBLAS is one call of several kernels. The Gram matrices, an op of
their own, are not counted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import bido_ext.ops  # noqa: F401
from bido_ext.reference.kernel_entries import GAUSSIAN, LABELS, LINEAR
from bido_ext.serving.implementations import functions_of
from bido_ext.serving.row import ROWS, named

#: Calls after which the host has waited for the device: they look at a result, or at its shape.
WAITS = (
    "aten.item", "_local_scalar_dense", "nonzero", "masked_select", "unique", "nanmedian", "eigh",
    "svd", "linalg_cholesky.", "cholesky_inverse", "linalg_inv.", "linalg_solve.", "linalg_lstsq",
)  # fmt: skip
#: Calls that only make room.
_NOTHING = ("empty", "detach", "alias", "lift_fresh")
LAYERS, WIDTH = 3, 64


@dataclass
class Algebra:
    """Of value and gradient of a step.

    Attributes:
        launches: Calls that launch a kernel.
        flops: Of products, factors and triangular solves; 2 for each multiply and add.
        bytes: Read and written by all calls, each operand once.
        waits: Calls at which the host waits for the device.
    """

    launches: int = 0
    flops: float = 0.0
    bytes: int = 0
    waits: int = 0


class Counting(TorchDispatchMode):
    """Counts the calls of PyTorch within."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Algebra()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(func)
        if func.namespace == "aten" and not func.is_view and not _makes_room(name):
            inputs, outputs = _tensors((args, kwargs)), _tensors(result)
            self.found.launches += 1
            self.found.flops += flops_of(name, inputs, outputs)
            self.found.bytes += sum(t.numel() * t.element_size() for t in (*inputs, *outputs))
            self.found.waits += any(word in name for word in WAITS)
        return result


def _makes_room(name: str) -> bool:
    return any(word in name for word in _NOTHING)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def flops_of(name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """Of one call; what is elementwise has none."""
    call = name.removeprefix("aten.").split(".")[0].rstrip("_")
    if call in ("mm", "bmm"):
        return 2.0 * outputs[0].numel() * inputs[0].shape[-1]
    if call in ("addmm", "baddbmm"):
        return 2.0 * outputs[0].numel() * inputs[1].shape[-1]
    if call in ("mv", "dot"):
        return 2.0 * inputs[0].numel()
    n = inputs[0].shape[-1] if inputs and inputs[0].dim() else 0
    if call in ("linalg_cholesky_ex", "cholesky_inverse"):
        third = math.prod(inputs[0].shape) * n / 3.0
        return third if call == "linalg_cholesky_ex" else 2 * third
    if call == "linalg_solve_triangular":
        return float(outputs[0].numel() * inputs[0].shape[-1])
    if call == "linalg_qr":  # reflections, and their product
        return 4.0 * inputs[0].numel() * n
    if call == "linalg_svd":
        return 22.0 * inputs[0].numel() * n
    return 0.0


@functools.cache
def algebra_of(
    op: str,
    form: str,
    n: int,
    *,
    kind: int = GAUSSIAN,
    norm: str = "spectral",
    layers: int = LAYERS,
    width: int = WIDTH,
    wide: bool = True,
) -> Algebra | None:
    """The cost of value and gradient of a step of an input, layers with a gradient, and labels.

    Args:
        op: "nhsic" or "coco".
        form: An implementation of its row, or "composition".
        n: Samples.
        kind: Of the kernels of the input and the layers.
        norm: Of coco.
        width: Of the features; only linear kernels ask.
        wide: Whether the algebra is in float64.

    Returns:
        None where the form does not take such a step.
    """
    with FakeTensorMode():
        return _counted(op, form, n, kind, norm, layers, width, wide)


def _counted(
    op: str, form: str, n: int, kind: int, norm: str, layers: int, width: int, wide: bool
) -> Algebra | None:
    features = [torch.empty(n, width, device="cuda") for _ in range(layers + 1)]
    variables = [*features, torch.empty(n, dtype=torch.int64, device="cuda")]
    kinds = [kind] * (layers + 1) + [LABELS]
    own = list(range(1, layers + 1))
    pairs = [*own, *own], [0] * layers + [layers + 1] * layers
    parameters = torch.empty(layers + 2, dtype=torch.float64, device="cuda")
    last: tuple[Any, ...] = (1e-5, wide, own) if op == "nhsic" else (norm, wide, own)
    args = (variables, parameters, kinds, *pairs, *last)
    functions, row = functions_of(op, form), ROWS[op]
    known = row.get(form)
    if known is not None and known.refusal(named(op, args)) is not None:
        return None
    assert row.backward_of is not None
    with Counting() as counting, torch.no_grad():
        result = functions[row.functions[0]](*args)
        functions[row.functions[1]](*row.backward_of(named(op, args), result))
    return counting.found


#: Op, form, further arguments, and what the table calls them.
FORMS: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("nhsic", "composition", {}, "nhsic, `torch.cholesky_inverse` (before)"),
    ("nhsic", "composed", {}, "nhsic, Cholesky and solves"),
    ("nhsic", "sweep", {}, "nhsic, blocked sweep"),
    ("nhsic", "refined", {}, "nhsic, float32 factor, one refinement"),
    ("nhsic", "refined", {"wide": False}, "nhsic, the same, float32 algebra"),
    ("nhsic", "composition", {"kind": LINEAR, "width": 512}, "nhsic, linear, d = 512, SVD (before)"),
    ("nhsic", "composed", {"kind": LINEAR, "width": 512}, "nhsic, linear, d = 512, Cholesky twice"),
    ("coco", "composition", {"norm": "fro"}, "coco, Frobenius"),
    ("coco", "composed", {}, "coco, spectral, by blocks"),
    ("coco", "squared", {}, "coco, spectral, squared"),
)  # fmt: skip


def table(sizes: Iterable[int] = (256, 1024, 4096)) -> str:
    """Launches, Gflop and GB of a step by form and n; Markdown."""
    sizes = list(sizes)
    lines = [
        "| form | host waits | " + " | ".join(f"n = {n}" for n in sizes) + " |",
        "| --- | ---: |" + " ---: |" * len(sizes),
    ]
    for op, form, options, words in FORMS:
        costs = [algebra_of(op, form, n, **options) for n in sizes]
        waits = max(cost.waits for cost in costs if cost is not None)
        lines.append(f"| {words} | {waits} | {' | '.join(map(_cell, costs))} |")
    return "\n".join(lines)


def _cell(cost: Algebra | None) -> str:
    if cost is None:
        return "–"
    return f"{cost.launches} / {_three_digits(cost.flops)} / {_three_digits(cost.bytes)}"


def _three_digits(count: float) -> str:
    giga = count / 1e9
    return f"{giga:,.0f}" if giga >= 100 else f"{giga:.3g}"


if __name__ == "__main__":
    print(table())

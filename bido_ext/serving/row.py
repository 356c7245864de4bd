# SPDX-License-Identifier: Apache-2.0
"""The registry: what an op says of itself (bido_ext/rows), and the functions that PyTorch knows it by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from bido_ext.serving.comparison import Check

Function = Callable[..., Any]
Functions = Mapping[str, Function]
#: The arguments of a call, by the names of the schema.
Arguments = Mapping[str, Any]
#: Why an implementation does not take such arguments, or None.
Limit = Callable[[Arguments], str | None]

#: Names that any op may have on a GPU; further forms are named by its row.
ON_GPU = ("triton", "cuda", "composed")
#: The package of what needs Triton.
TRITON_KERNELS = "bido_ext.triton_kernels"
#: The default of an op that is made of others: as good as any, and checked with those.
COMPOSITION = "composition"
#: Rows and columns of a check: one sample block, several, more columns than one block takes, and multiples of
#: 16, for which a compiler makes other code.
SHAPES = ((5, 3), (67, 130), (150, 2100), (128, 512))


def _nothing(device: torch.device) -> str | None:
    return None


@dataclass(frozen=True)
class Implementation:
    """One way to compute an op.

    Attributes:
        name: "cpu" (bido_cpu), "triton", "cuda" (bido_cuda), "composed" (PyTorch's products), or any other
            for a further form of PyTorch's products or of the Triton kernels.
        limits: What it does not take; all other arguments it does.
        serves: What it is for, where that is a part of the calls; for the report.
        module: Of a further form: where its functions are.
        what: What it is made of, in words; for the report.
        shapes: Rows and columns to check beside those of the row: what only its own code has.
        lacking: What a device has to have for it and has not, in words, or None.
    """

    name: str
    limits: Sequence[Limit] = ()
    serves: str = ""
    module: str = ""
    what: str = ""
    shapes: Sequence[tuple[int, int]] = ()
    lacking: Callable[[torch.device], str | None] = _nothing

    @property
    def of_triton(self) -> bool:
        """Whether it needs Triton."""
        return self.name == "triton" or self.module.startswith(f"{TRITON_KERNELS}.")

    @property
    def portable(self) -> bool:
        """Whether it is made of PyTorch's products, and so runs on every device."""
        return self.name == "composed" or (bool(self.module) and not self.of_triton)

    def refusal(self, arguments: Arguments) -> str | None:
        """The first reason why it does not take the arguments."""
        for limit in self.limits:
            why = limit(arguments)
            if why is not None:
                return why
        return None


@dataclass(frozen=True)
class Row:
    """What is known of an op beyond its contract.

    Attributes:
        op: The stem of its files.
        functions: Forward and backward, which one implementation serves together; empty for a composition
            without functions of its own.
        implementations: Beside the default of the contract, in the order in which they are tried on a GPU
            where nothing may be measured.
        composition: What the default is made of, where it is no plain reference but as good as any; a kernel is
            then a special case, and where none serves, a forced one too, the composition does.
        composition_waits: Whether the composition reads values back, so that it serves a GPU only where
            nothing else does.
        features: The argument that holds the features.
        check: Compares functions with the float64 reference on features x (n, d).
        shapes: Rows and columns of the features to check.
        products: Whether it multiplies features, and so asks whether TF32 is allowed.
        backward_of: The arguments of the backward, from those of the forward and its result.
        bucket: What tells two calls of the same shapes and dtypes apart, in words that forward and backward
            share.
    """

    op: str
    functions: Sequence[str] = ()
    implementations: Sequence[Implementation] = ()
    composition: str = ""
    composition_waits: bool = False
    features: str = "variables"
    check: Callable[[Functions, Tensor, Check], None] | None = None
    shapes: Sequence[tuple[int, int]] = SHAPES
    products: bool = True
    backward_of: Callable[[Arguments, Any], tuple[Any, ...]] | None = None
    bucket: Callable[[Arguments], str] | None = None

    def get(self, implementation: str) -> Implementation | None:
        """The implementation of that name, if the op has it."""
        return next((i for i in self.implementations if i.name == implementation), None)

    def shapes_of(self, implementation: str) -> list[tuple[int, int]]:
        """Rows and columns with which an implementation is checked."""
        known = self.get(implementation)
        return [*self.shapes, *(known.shapes if known is not None else ())]

    def words_of(self, arguments: Arguments) -> str:
        """Of ``bucket``, to stand before others."""
        words = "" if self.bucket is None else self.bucket(arguments)
        return words and f"{words}: "

    def on_gpu(self) -> list[Implementation]:
        """Those for GPUs, in the order in which they are tried where nothing may be measured."""
        return [i for i in self.implementations if i.name != "cpu"]

    def on_cpu(self) -> list[Implementation]:
        """What may be compared on the CPU, where the first always serves."""
        return [i for i in self.implementations if i.name == "cpu" or i.portable]


@dataclass
class Contract:
    """What define_op has told: a function's default and the names of its arguments."""

    default: Function
    arguments: tuple[str, ...]
    #: Of each argument, as the schema has it: "Tensor", "Tensor[]", "int[]", "float" ...
    types: tuple[str, ...]
    #: How it runs again in float64 on the CPU (bido_ext._float64).
    in_float64: Function | None = None
    row: Row | None = field(default=None, repr=False)
    #: Where the features are among the arguments.
    features_at: int = 0


ROWS: dict[str, Row] = {}
CONTRACTS: dict[str, Contract] = {}


def add_contract(name: str, schema: str, default: Function, in_float64: Function | None) -> None:
    """Tells of a function ``bido_ext::name``."""
    both = [argument.split() for argument in schema[1 : schema.index(")")].split(",")]
    types, names = zip(*both, strict=True)
    CONTRACTS[name] = Contract(default, names, types, in_float64)


def add_row(row: Row) -> None:
    """Tells of an op; its functions have contracts already."""
    ROWS[row.op] = row
    for name in row.functions:
        contract = CONTRACTS[name]
        contract.row = row
        at = row.features if row.features in contract.arguments else contract.arguments[0]
        contract.features_at = contract.arguments.index(at)


def checked_ops() -> dict[str, tuple[str, ...]]:
    """The functions of each op that has a check; they stand or fall together."""
    return {op: tuple(row.functions) for op, row in ROWS.items() if row.check is not None}


def row_of(function: str) -> Row:
    """The op of a function."""
    row = CONTRACTS[function].row
    assert row is not None
    return row


def default_of(function: str) -> Function:
    """The implementation for every device."""
    return CONTRACTS[function].default


def named(function: str, args: Iterable[Any]) -> dict[str, Any]:
    """The arguments of a call by name."""
    return dict(zip(CONTRACTS[function].arguments, args, strict=False))

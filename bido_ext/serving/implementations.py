# SPDX-License-Identifier: Apache-2.0
"""The functions of an implementation, by the names of the contracts."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import torch

from bido_ext._precision import tf32_allowed
from bido_ext.serving import libraries
from bido_ext.serving.row import ROWS, TRITON_KERNELS, Function, default_of, row_of

#: Packages with one module per op.
_MODULES = {"triton": TRITON_KERNELS, "composed": "bido_ext.composed"}


def functions_of(op: str, implementation: str) -> dict[str, Function]:
    """What an implementation has for an op, by function name; empty where it has nothing here.

    Args:
        implementation: "cpu", "cuda", "triton", "composed" or a further form of the op's row; "reference" and
            "composition": the defaults.
    """
    row = ROWS[op]
    names, known = row.functions, row.get(implementation)
    if implementation in ("reference", "composition"):
        return {name: default_of(name) for name in names}
    of_triton = implementation == "triton" or (known is not None and known.of_triton)
    if of_triton and not libraries.has_triton():
        return {}
    if known is not None and known.module:
        return {name: getattr(importlib.import_module(known.module), name) for name in names}
    if implementation in _MODULES:
        module = f"{_MODULES[implementation]}.{op}"
        if importlib.util.find_spec(module) is None:
            return {}
        return {name: getattr(importlib.import_module(module), name) for name in names}
    library = getattr(torch.ops, f"bido_{implementation}")
    there = [name for name in names if hasattr(library, name)]
    return {
        name: _cuda_function(name) if implementation == "cuda" else getattr(library, name)
        for name in there
    }


@functools.cache
def _cuda_function(name: str) -> Function:
    """A function of the CUDA C++ library, told the precision that the stable ABI cannot ask for."""
    kernel = getattr(torch.ops.bido_cuda, name)
    if not row_of(name).products:
        return kernel  # type: ignore[no-any-return]

    def function(*args: Any) -> Any:
        return kernel(*args, tf32_allowed())

    function.__name__ = function.__qualname__ = f"bido_cuda.{name}"
    return function

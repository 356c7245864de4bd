# SPDX-License-Identifier: Apache-2.0
"""Spares Triton's interpreter what it does again at every operation: names, shapes, types. No number passes here."""

from __future__ import annotations

import functools
import sys
from typing import Any

#: What was replaced: (object, name, as Triton has it).
replaced: list[tuple[Any, str, Any]] = []


def quicken() -> None:
    """Halves the time of tests that interpret kernels. Does nothing where Triton's interpreter is not loaded."""
    interpreter: Any = sys.modules.get("triton.runtime.interpreter")
    if interpreter is None or replaced:
        return
    _replace_the_language_once_per_launch(interpreter)
    _remember_numpy_types(interpreter)
    _remember_block_types(interpreter.tl.block_type)
    _remember_shapes_of_tensors(interpreter.tl.tensor)


def _replace(where: Any, name: str, function: Any) -> None:
    replaced.append((where, name, getattr(where, name)))
    setattr(where, name, function)


def _replace_the_language_once_per_launch(interpreter: Any) -> None:
    """Triton replaces all of triton.language at a launch, and again at each call of one jitted function by another."""
    patch, restore = interpreter._patch_lang, interpreter._LangPatchScope.restore
    language = (interpreter.tl, interpreter.tl.core)
    made: set[int] = set()  # empty between launches: only a launch restores

    @functools.cache
    def modules_seen_by(function: Any) -> frozenset[int]:
        found = function.__globals__.values()
        return frozenset(id(module) for module in language if any(v is module for v in found))

    def patch_once(function: Any) -> Any:
        modules = modules_seen_by(function)
        if modules and modules <= made:
            return interpreter._LangPatchScope()
        made.update(modules)
        return patch(function)

    def restore_and_forget(scope: Any) -> None:
        made.clear()
        restore(scope)

    _replace(interpreter, "_patch_lang", patch_once)
    _replace(interpreter._LangPatchScope, "restore", restore_and_forget)


def _remember_numpy_types(interpreter: Any) -> None:
    """Triton builds a dictionary of 18 types for each look-up."""
    find, known = interpreter._get_np_dtype, {}

    def found(dtype: Any) -> Any:
        if dtype.name not in known:
            known[dtype.name] = find(dtype)
        return known[dtype.name]

    _replace(interpreter, "_get_np_dtype", found)


def _numbers(shape: Any) -> tuple[Any, ...]:
    return tuple(getattr(s, "value", s) for s in shape)


def _remember_block_types(block_type: Any) -> None:
    make = block_type.__init__
    known: dict[tuple[Any, ...], dict[str, Any]] = {}

    def init(self: Any, element_ty: Any, shape: Any) -> None:
        key = (element_ty.name, *_numbers(shape))
        if key in known:
            vars(self).update(known[key], element_ty=element_ty)
        else:
            make(self, element_ty, shape)
            known[key] = dict(vars(self))

    _replace(block_type, "__init__", init)


def _remember_shapes_of_tensors(tensor: Any) -> None:
    make = tensor.__init__
    known: dict[tuple[Any, ...], dict[str, Any]] = {}

    def init(self: Any, handle: Any, type: Any) -> None:
        key = _numbers(type.shape) if type.is_block() else ()
        if key in known:
            vars(self).update(known[key], handle=handle, type=type, dtype=type.scalar)
            return
        make(self, handle, type)
        of_shape = {name: vars(self)[name] for name in ("shape", "numel")}
        if set(vars(self)) == {*of_shape, "handle", "type", "dtype"}:
            known[key] = of_shape

    _replace(tensor, "__init__", init)

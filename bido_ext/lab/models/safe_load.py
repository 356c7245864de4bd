# SPDX-License-Identifier: Apache-2.0
"""Reads files of weights without executing anything from them, and says what stands in the way."""

from __future__ import annotations

import argparse
import datetime
import pickle
import re
import types
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .wanted import Wanted

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
# Plain data of training scripts beside the weights: numbers of numpy, parsed options, times, paths.
# None of them runs code when it is made anew.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    types.SimpleNamespace,
    np.dtype,
    np.ndarray,
    *{type(np.dtype(kind)) for kind in f"{np.typecodes['AllInteger']}{np.typecodes['Float']}?US"},
    *(datetime.datetime, datetime.date, datetime.timedelta, type(Path())),
]
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _HARMLESS += [
        (np.float64(0).__reduce__()[0], f"{_module}.scalar"),
        (np.empty(0).__reduce__()[0], f"{_module}._reconstruct"),
    ]


def load_plain(path: Path, wanted: Wanted) -> Any:
    """What ``torch.save`` wrote, on the CPU: tensors, containers, numbers, parsed options.

    Args:
        path: The file.
        wanted: What it should be, for errors.

    Raises:
        WeightsFileError: There is no such file, it is damaged, or it holds other objects (the first
            is named).
    """
    wanted.check_is_file(path)
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            # Of files that other programs pickled PyTorch asks to be told; the reader is no developer.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        *(RuntimeError, pickle.UnpicklingError, EOFError, OSError, zipfile.BadZipFile),
        *(ValueError, TypeError, AttributeError, KeyError, IndexError),
    ) as error:
        raise wanted.unreadable(path, _foreign_object(error)) from error


def load_tensors(path: Path, wanted: Wanted) -> Any:
    """As ``load_plain``; a file named ``.safetensors`` is read as such.

    Raises:
        WeightsFileError: See ``load_plain``.
        ModuleNotFoundError: A safetensors file without the package.
    """
    if path.suffix != ".safetensors":
        return load_plain(path, wanted)
    wanted.check_is_file(path)
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{path} needs safetensors, which is not installed; run: pip install "bido-ext[timm]"',
            name="safetensors",
        ) from error
    try:
        return load_file(path)
    except Exception as error:  # safetensors has an error class of its own
        raise wanted.unreadable(path) from error


def state_dict_of(content: Any, path: Path, wanted: Wanted) -> dict[str, Tensor]:
    """The names and tensors in a checkpoint, whatever the training script wrapped around them.

    Taken is the mapping itself, or the one mapping of names to tensors inside it ("state_dict"
    before others). Prefixes of ``DataParallel``, ``torch.compile`` and weight averaging go.

    Args:
        content: From ``load_tensors``.
        path: The file it is from.
        wanted: What that should be, for errors.

    Raises:
        WeightsFileError: There is none, or more than one.
    """
    while not _is_state(content):
        inner = {
            key: value
            for key, value in (content.items() if isinstance(content, Mapping) else ())
            if isinstance(value, Mapping) and value and (_is_state(value) or "state_dict" in value)
        }
        if "state_dict" in inner:
            inner = {"state_dict": inner["state_dict"]}
        if len(inner) > 1:
            names = ", ".join(map(str, inner))
            raise wanted.refusal(
                path,
                f"holds several mappings of names to tensors ({names}); save the wanted one in a "
                "file of its own",
            )
        if not inner:
            raise wanted.refusal(
                path,
                f"holds no mapping of names to tensors, but {_described(content)}; save "
                "model.state_dict()",
            )
        (content,) = inner.values()
    state = _without_prefixes(content)
    if state is None:
        raise wanted.refusal(path, "holds a weight twice, with and without '_orig_mod.'")
    return state


def state_or_none(content: Any, path: Path, wanted: Wanted) -> dict[str, Tensor] | None:
    """As ``state_dict_of``; None where there is no such mapping, or more than one."""
    try:
        return state_dict_of(content, path, wanted)
    except ValueError:
        return None


def check_finite_weights(state: Mapping[str, Tensor], path: Path, wanted: Wanted) -> None:
    """Raise WeightsFileError if a weight of ``path`` is nan or infinite; its name is told."""
    bad = [
        name for name, value in state.items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]  # fmt: skip
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise wanted.refusal(path, f"holds weights that are nan or infinite, in {bad[0]}{more}")


def _is_state(content: Any) -> bool:
    return isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


def _without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    names = {name: name.replace("_orig_mod.", "") for name in state if name != "n_averaged"}
    while names and all(name.startswith("module.") for name in names.values()):
        names = {old: new.removeprefix("module.") for old, new in names.items()}
    if len(set(names.values())) < len(names):
        return None
    return {new: state[old] for old, new in names.items()}


def _described(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    parts = [f"{key} ({type(value).__name__})" for key, value in list(content.items())[:6]]
    return ", ".join(parts) if parts else "nothing"


def _foreign_object(error: BaseException) -> str:
    """What to tell of an object that PyTorch did not make; empty: it met none.

    PyTorch's own lines advise to execute the file.
    """
    found = _GLOBAL.search(str(error))
    if found is None:
        return ""
    return (
        f"it holds a {found[1]}, which only running code from the file could make; where you "
        "trust it, load it with its own program and save model.state_dict() alone"
    )

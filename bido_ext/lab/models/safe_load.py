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


def load_plain(path: Path, what: str) -> Any:
    """What ``torch.save`` wrote, on the CPU: tensors, containers, numbers, parsed options.

    Args:
        path: The file.
        what: What to call it in errors, as "checkpoint".

    Raises:
        ValueError: The file is damaged, or holds other objects (the first is named).
    """
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            # Of files that other programs pickled PyTorch asks to be told; the reader is no developer.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        *(RuntimeError, pickle.UnpicklingError, EOFError, OSError, zipfile.BadZipFile),
        *(ValueError, TypeError, AttributeError, KeyError, IndexError),
    ) as error:
        raise ValueError(f"{path} is not a readable {what} ({_reason(error)})") from error


def load_tensors(path: Path, what: str) -> Any:
    """As ``load_plain``; a file named ``.safetensors`` is read as such.

    Raises:
        ValueError: See ``load_plain``.
        ModuleNotFoundError: A safetensors file without the package.
    """
    if path.suffix != ".safetensors":
        return load_plain(path, what)
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
        raise ValueError(f"{path} is not a readable {what} ({error})") from error


def state_dict_of(content: Any, where: str) -> dict[str, Tensor]:
    """The names and tensors in a checkpoint, whatever the training script wrapped around them.

    Taken is the mapping itself, or the one mapping of names to tensors inside it ("state_dict"
    before others). Prefixes of ``DataParallel``, ``torch.compile`` and weight averaging go.

    Args:
        content: From ``load_tensors``.
        where: What to call it in errors.

    Raises:
        ValueError: There is none, or more than one.
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
            raise ValueError(
                f"{where} holds several mappings of names to tensors ({', '.join(map(str, inner))}); "
                "save the wanted one in a file of its own"
            )
        if not inner:
            raise ValueError(
                f"{where} holds no mapping of names to tensors, but {_described(content)}; save "
                "model.state_dict()"
            )
        (content,) = inner.values()
    return _without_prefixes(content)


def state_or_none(content: Any) -> dict[str, Tensor] | None:
    """As ``state_dict_of``; None where there is no such mapping, or more than one."""
    try:
        return state_dict_of(content, "")
    except ValueError:
        return None


def check_finite_weights(state: Mapping[str, Tensor], where: str) -> None:
    """Raise ValueError if a weight is nan or infinite; its name is told."""
    bad = [
        name for name, value in state.items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]  # fmt: skip
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ValueError(f"{where} holds weights that are nan or infinite, in {bad[0]}{more}")


def _is_state(content: Any) -> bool:
    return isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


def _without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = {name: name.replace("_orig_mod.", "") for name in state if name != "n_averaged"}
    while names and all(name.startswith("module.") for name in names.values()):
        names = {old: new.removeprefix("module.") for old, new in names.items()}
    if len(set(names.values())) < len(names):
        raise ValueError("a state dict holds a weight twice, with and without '_orig_mod.'")
    return {new: state[old] for old, new in names.items()}


def _described(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    parts = [f"{key} ({type(value).__name__})" for key, value in list(content.items())[:6]]
    return ", ".join(parts) if parts else "nothing"


def _reason(error: BaseException) -> str:
    """PyTorch's first lines advise to execute the file; what it met is further down."""
    text = str(error).strip()
    if found := _GLOBAL.search(text):
        return (
            f"it holds a {found[1]}, which only running code from the file could make; where you "
            "trust it, load it with its own program and save model.state_dict() alone"
        )
    text = text.split("WeightsUnpickler error:")[-1].strip()
    if isinstance(error, (EOFError, LookupError)) or "Unsupported operand" in text:
        return "it is no file of torch.save, or cut short"
    return text.splitlines()[0].split(". ")[0] if text else repr(error)

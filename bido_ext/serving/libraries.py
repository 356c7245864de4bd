# SPDX-License-Identifier: Apache-2.0
"""The compiled libraries: loaded once, with the reason where one does not load, and BIDO_EXT_BACKEND."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import warnings
from pathlib import Path

import torch

PACKAGE = Path(__file__).parents[1]
FORCED_VALUES = ("native", "triton", "reference")
#: Triton's interpreter runs its kernels on the CPU, for tests.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def has_triton() -> bool:
    """Whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def triton_version() -> str:
    """Of the Triton at hand."""
    return str(importlib.import_module("triton").__version__) if has_triton() else "none"


def _forced_backend() -> str | None:
    value = os.environ.get("BIDO_EXT_BACKEND", "").strip().lower()
    if value and value not in FORCED_VALUES:
        raise ImportError(
            f"BIDO_EXT_BACKEND={value!r} is not a backend; allowed: {', '.join(FORCED_VALUES)}, or unset."
        )
    if value == "triton":
        problem = None if has_triton() else "triton is not installed"
        if problem is None and not (INTERPRETED or torch.cuda.is_available()):
            problem = (
                "there is no CUDA device (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly)"
            )
        if problem:
            raise ImportError(
                f"BIDO_EXT_BACKEND=triton cannot run: {problem}. Unset it, or use native or reference."
            )
    return value or None


#: BIDO_EXT_BACKEND: nothing else may serve.
FORCED = _forced_backend()
_not_wanted = f"BIDO_EXT_BACKEND={FORCED}" if FORCED in ("reference", "triton") else None
#: Why a library serves nothing, or None: of bido_cpu, of bido_cuda.
problems: dict[str, str | None] = {"cpu": _not_wanted, "cuda": _not_wanted}


def load_libraries() -> None:
    """Loads bido_cpu and bido_cuda, unless another backend is forced.

    Raises:
        ImportError: BIDO_EXT_BACKEND=native, and bido_cpu does not load.
    """
    if FORCED not in ("triton", "reference"):
        for device in problems:
            problems[device] = _load(f"bido_{device}")
    if FORCED == "native" and problems["cpu"]:
        raise ImportError(f"BIDO_EXT_BACKEND=native cannot run on the CPU: {problems['cpu']}.")


def _load(name: str) -> str | None:
    """Loads ``<name>.so``; returns None on success, else the reason why not."""
    path = PACKAGE / f"{name}.so"
    if not path.exists():
        if name == "bido_cpu" and (installed := hidden_package()):
            warnings.warn(
                f"bido_ext: the sources in {PACKAGE} hide the installed package in {installed}. Their ops "
                "run as plain PyTorch, right but slower. Start Python in another folder.",
                RuntimeWarning,
                stacklevel=2,
            )
        return f"{path.name} was not built with this installation"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        # PyTorch says which file; the loader's own words are in what it was raised from.
        reason = f"{path.name} does not load: {str(error.__cause__ or error).splitlines()[0]}"
        if name != "bido_cuda" or torch.version.cuda is not None:
            # A PyTorch without CUDA has no use for bido_cuda; anything else is a broken installation.
            warnings.warn(
                f"bido_ext: {reason}. Its ops run as plain PyTorch, right but slower. Build it again for this "
                "PyTorch and this Python: pip install --force-reinstall --no-deps bido-ext (in a checkout: "
                "pip install -e . --no-build-isolation).",
                RuntimeWarning,
                stacklevel=2,
            )
        return reason
    return None


def hidden_package() -> Path | None:
    """The installed package with compiled kernels, if Python took these sources in its place.

    That happens in a clone after ``pip install .``: Python looks into the current folder first.
    """
    for installed in importlib.metadata.distributions(name="bido-ext"):
        library = Path(str(installed.locate_file("bido_ext/bido_cpu.so")))
        if library.exists() and library.parent.resolve() != PACKAGE.resolve():
            return library.parent
    return None


def native_on_cpu() -> bool:
    """Whether the kernels of bido_cpu serve."""
    return problems["cpu"] is None


def kernels_on(device: str) -> bool:
    """Whether Triton or compiled kernels can serve on a device type."""
    if device == "cpu" and native_on_cpu():
        return True
    triton = has_triton() and FORCED in (None, "triton")
    if device == "cuda":
        return triton or (problems["cuda"] is None and FORCED in (None, "native"))
    return triton and INTERPRETED and FORCED == "triton"


@functools.cache
def digest() -> str:
    """Of all that computes or checks on a GPU: what is edited or rebuilt inherits no verdict."""
    sha = hashlib.sha256()
    folders = ("triton_kernels", "composed", "ops", "reference", "rows", "serving")
    files = [path for folder in folders for path in PACKAGE.glob(f"{folder}/*.py")]
    for path in sorted([*files, *PACKAGE.glob("bido_cuda.so")]):
        sha.update(path.read_bytes())
    return sha.hexdigest()[:16]


def build_info() -> dict[str, str]:
    """Compiler, PyTorch headers and CUDA architectures of the compiled parts; empty if none."""
    try:
        module = importlib.import_module("bido_ext._C")
    except ImportError:
        return {}
    return dict(module.build_info())

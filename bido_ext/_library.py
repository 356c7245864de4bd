# SPDX-License-Identifier: Apache-2.0
"""Finds and loads the compiled libraries, once, and keeps the reason for every choice.

Which implementation serves an op on a device:

- ``reference``: plain PyTorch (:mod:`bido_ext.reference`), registered for every device as the default;
- ``cpu``: the C++ kernels of the library ``bido_cpu``;
- on CUDA devices ``triton``, ``cuda`` (the library ``bido_cuda``) or the reference, chosen per call by
  :mod:`bido_ext._serve`.

``BIDO_EXT_BACKEND=native|triton|reference`` forces one; a forced backend that cannot run raises.
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from bido_ext import _serve

#: Ops with a compiled kernel, by library; the others are compositions of these.
TRITON_KERNELS = ("gaussian_gram", "gram_stack", "double_center", "hsic")
CUDA_KERNELS = (*TRITON_KERNELS, "nhsic")
CPU_KERNELS = (*CUDA_KERNELS, "coco", "permuted_products", "distance_products")
ALL_OPS = (
    "gaussian_gram", "gram_stack", "double_center", "hsic", "nhsic", "coco", "cka", "permuted_products",
    "distance_products",
)  # fmt: skip
COMPOSITES = {
    "nhsic": "composition of gram_stack and torch.linalg",
    "coco": "composition of gram_stack and torch.linalg",
    "cka": "composition of hsic",
}
FORCED_VALUES = ("native", "triton", "reference")
#: Triton's interpreter runs its kernels on the CPU, for tests.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@dataclass(frozen=True)
class BackendRow:
    """Which implementation serves ``op`` on ``device``, and why."""

    op: str
    device: str
    implementation: str
    reason: str


def _forced_backend() -> str | None:
    value = os.environ.get("BIDO_EXT_BACKEND", "").strip().lower()
    if value and value not in FORCED_VALUES:
        raise ImportError(
            f"BIDO_EXT_BACKEND={value!r} is not a backend; allowed: {', '.join(FORCED_VALUES)}, or unset."
        )
    if value == "triton":
        problem = None if _serve.has_triton() else "triton is not installed"
        if problem is None and not (INTERPRETED or torch.cuda.is_available()):
            problem = (
                "there is no CUDA device (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly)"
            )
        if problem:
            raise ImportError(
                f"BIDO_EXT_BACKEND=triton cannot run: {problem}. Unset it, or use native or reference."
            )
    return value or None


def _load(name: str) -> str | None:
    """Loads ``<name>.so``; returns None on success, else the reason why not."""
    path = Path(__file__).parent / f"{name}.so"
    if not path.exists():
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


FORCED = _forced_backend()
_cpu_problem: str | None = (
    f"BIDO_EXT_BACKEND={FORCED}" if FORCED in ("reference", "triton") else None
)
_cuda_problem: str | None = _cpu_problem
_KEEP_ALIVE: list[torch.library.Library] = []


def load_kernels() -> None:
    """Loads what is chosen; called once, by :mod:`bido_ext.ops` after the ops are defined."""
    global _cpu_problem, _cuda_problem
    if FORCED not in ("triton", "reference"):
        _cpu_problem = _load("bido_cpu")
        _cuda_problem = _load("bido_cuda")
    if FORCED == "native" and _cpu_problem:
        raise ImportError(f"BIDO_EXT_BACKEND=native cannot run on the CPU: {_cpu_problem}.")
    library = torch.library.Library("bido_ext", "IMPL")
    if FORCED != "reference":
        for name in _serve.FAMILY_OF:
            library.impl(name, functools.partial(_serve.call, name, FORCED), "CUDA")
    for name in _serve.ON_CPU:
        refused = FORCED == "triton" and not INTERPRETED and name in _serve.FAMILY_OF
        serve = functools.partial(_serve.call_cpu, name, FORCED)
        library.impl(name, functools.partial(_no_cpu, name) if refused else serve, "CPU")
    if FORCED == "triton":
        name = "double_center"
        serve = functools.partial(_serve.call, name, FORCED)
        library.impl(name, serve if INTERPRETED else functools.partial(_no_cpu, name), "CPU")
    _KEEP_ALIVE.append(library)


def _no_cpu(name: str, *args: object) -> None:
    raise NotImplementedError(
        f"BIDO_EXT_BACKEND=triton: bido_ext::{name} has no Triton kernel for the CPU. Unset it, or move the "
        "features to a CUDA device."
    )


def keeps_tiles(device: str) -> bool:
    """Whether hsic keeps the upper tiles of a Gram matrix on ``device``; elsewhere it keeps it whole."""
    return device == "cpu" and _cpu_problem is None


def can_stream(device: str, dtype: torch.dtype) -> bool:
    """Whether hsic of features accumulating in ``dtype`` can run without n x n matrices on ``device``."""
    if keeps_tiles(device):
        return True
    if dtype == torch.float64:
        return False
    triton = _serve.has_triton() and FORCED in (None, "triton")
    native = _cuda_problem is None and FORCED in (None, "native")
    if device == "cuda":
        return triton or native
    return triton and INTERPRETED and FORCED == "triton"


def backends() -> list[BackendRow]:
    """Returns one row per op and device (cpu, cuda): the implementation that serves, and the reason."""
    rows = []
    for op in ALL_OPS:
        if op in COMPOSITES:
            for device in ("cpu", "cuda"):
                rows.append(
                    BackendRow(
                        op, device, "composite", COMPOSITES[op] + _kernel_of_composite(op, device)
                    )
                )
            continue
        rows.append(_row(op, "cpu", op in CPU_KERNELS, _cpu_problem))
        rows.append(_row(op, "cuda", op in CUDA_KERNELS, _cuda_problem))
    return rows


def _kernel_of_composite(op: str, device: str) -> str:
    """What serves the calls for which a composition has a kernel of its own."""
    kernels, problem = (
        (CPU_KERNELS, _cpu_problem) if device == "cpu" else (CUDA_KERNELS, _cuda_problem)
    )
    if op not in kernels or problem is not None:
        return ""
    if device == "cpu":
        norm = "Frobenius norm, " if op == "coco" else ""
        return f"; {norm}algebra in float64 (default up to n = 1024): kernel of bido_cpu"
    return (
        f"; n <= {_serve.SMALL_NHSIC}: kernel of bido_cuda, never run on hardware; serves after a self-check"
        " at first use"
    )


def _row(op: str, device: str, has_kernel: bool, problem: str | None) -> BackendRow:
    forced = "; forced by BIDO_EXT_BACKEND" if FORCED else ""
    if device == "cpu":
        if FORCED == "triton":
            note = (
                "Triton kernel in the interpreter"
                if INTERPRETED
                else "no Triton kernel for the CPU"
            )
            return BackendRow(op, device, "triton" if INTERPRETED else "refused", note + forced)
        if problem is None:
            return BackendRow(op, device, "cpu", f"compiled kernel of bido_cpu{forced}")
        return BackendRow(op, device, "reference", problem)
    note = "" if torch.cuda.is_available() else " (no CUDA device here)"
    if FORCED == "reference":
        return BackendRow(op, device, "reference", f"BIDO_EXT_BACKEND=reference{note}")
    if FORCED == "native":
        if has_kernel and problem is None:
            reason = (
                f"compiled kernel of bido_cuda{forced}; never run on hardware; float64 is refused"
            )
            return BackendRow(op, device, "cuda", reason + note)
        why_not = problem if has_kernel else "bido_cuda has no kernel for it"
        return BackendRow(op, device, "refused", f"BIDO_EXT_BACKEND=native: {why_not}{note}")
    if op not in (*TRITON_KERNELS, *CUDA_KERNELS):
        return BackendRow(op, device, "reference", f"it has no kernel for GPUs{note}")
    if _serve.has_triton():
        how = (
            forced
            or "; serves after a self-check at first use, else the reference; float64: reference"
        )
        return BackendRow(op, device, "triton", f"Triton kernel, never run on hardware{how}{note}")
    if problem is None:
        how = "; serves after a self-check at first use, else the reference; float64: reference"
        return BackendRow(
            op, device, "cuda", f"compiled kernel of bido_cuda, never run on hardware{how}{note}"
        )
    return BackendRow(op, device, "reference", f"triton is not installed, and {problem}{note}")


def build_info() -> dict[str, str]:
    """Compiler, PyTorch headers and CUDA architectures of the compiled parts; empty if none."""
    try:
        module = importlib.import_module("bido_ext._C")
    except ImportError:
        return {}
    return dict(module.build_info())

# SPDX-License-Identifier: Apache-2.0
"""Finds and loads the compiled libraries, once, and keeps the reason for every choice.

The one place that decides which implementation serves an op on a device:

- ``reference``: plain PyTorch (:mod:`bido_ext.reference`), registered for every device as the default;
- ``cpu``: the C++ kernels of the library ``bido_cpu``;
- ``cuda``: the CUDA kernels of ``bido_cuda``; chosen on request only, since no run on hardware is
  recorded under benchmarks/results/ yet.

``BIDO_EXT_BACKEND=native|triton|reference`` forces one; a forced backend that cannot run raises.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch

#: Ops with a compiled kernel, by library; the others are compositions of these.
CPU_KERNELS = ("gaussian_gram", "gram_stack", "double_center", "hsic")
CUDA_KERNELS = ("gaussian_gram",)
ALL_OPS = ("gaussian_gram", "gram_stack", "double_center", "hsic", "nhsic", "coco", "cka")
COMPOSITES = {
    "nhsic": "composition of gram_stack and torch.linalg",
    "coco": "composition of gram_stack and torch.linalg",
    "cka": "composition of hsic",
}
FORCED_VALUES = ("native", "triton", "reference")


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
        raise ImportError(
            "BIDO_EXT_BACKEND=triton cannot run: this version of bido_ext has no Triton kernels. "
            "Unset it, or use native or reference."
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
        return f"{path.name} does not load: {str(error).splitlines()[0]}"
    return None


FORCED = _forced_backend()
_cpu_problem: str | None = "BIDO_EXT_BACKEND=reference" if FORCED == "reference" else None
_cuda_problem: str | None = (
    _cpu_problem or "no recorded run on hardware; BIDO_EXT_BACKEND=native chooses it"
)


def load_kernels() -> None:
    """Loads what is chosen; called once, after the ops are defined."""
    global _cpu_problem, _cuda_problem
    if FORCED == "reference":
        return
    _cpu_problem = _load("bido_cpu")
    if FORCED == "native":
        if _cpu_problem:
            raise ImportError(f"BIDO_EXT_BACKEND=native cannot run on the CPU: {_cpu_problem}.")
        _cuda_problem = _load("bido_cuda")
        _refuse_missing_cuda_kernels()
    elif not (Path(__file__).parent / "bido_cuda.so").exists():
        _cuda_problem = "bido_cuda.so was not built with this installation"


def _refuse_missing_cuda_kernels() -> None:
    """Under a forced native backend an op without a CUDA kernel must raise, not fall back."""
    # No op has a CUDA backward yet: it must raise as well, not quietly become the reference.
    missing = [op for op in CPU_KERNELS if _cuda_problem or op not in CUDA_KERNELS]
    missing += [f"{op}_backward" for op in CPU_KERNELS if op != "double_center"]
    library = torch.library.Library("bido_ext", "IMPL")
    for op in missing:

        def refuse(*args: object, _op: str = op) -> None:
            raise NotImplementedError(
                f"BIDO_EXT_BACKEND=native: bido_ext::{_op} has no CUDA kernel "
                f"({_cuda_problem or 'not in bido_cuda'}). Unset BIDO_EXT_BACKEND to use the reference."
            )

        library.impl(op, refuse, "CUDA")
    _KEEP_ALIVE.append(library)


_KEEP_ALIVE: list[torch.library.Library] = []


def has_kernel(op: str, device: str) -> bool:
    """Whether a compiled kernel, not the reference, serves ``op`` on ``device`` ("cpu" or "cuda")."""
    if device == "cpu":
        return op in CPU_KERNELS and _cpu_problem is None
    return device == "cuda" and op in CUDA_KERNELS and _cuda_problem is None


def backends() -> list[BackendRow]:
    """Returns one row per op and device (cpu, cuda): the implementation that serves, and the reason."""
    rows = []
    for op in ALL_OPS:
        if op in COMPOSITES:
            rows += [
                BackendRow(op, device, "composite", COMPOSITES[op]) for device in ("cpu", "cuda")
            ]
            continue
        rows.append(_row(op, "cpu", op in CPU_KERNELS, _cpu_problem))
        rows.append(_row(op, "cuda", op in CUDA_KERNELS, _cuda_problem))
    return rows


def _row(op: str, device: str, has_kernel: bool, problem: str | None) -> BackendRow:
    note = "" if device == "cpu" or torch.cuda.is_available() else " (no CUDA device here)"
    if has_kernel and problem is None:
        forced = "; forced by BIDO_EXT_BACKEND" if FORCED else ""
        hardware = "; forward only, never run on hardware" if device == "cuda" else ""
        return BackendRow(
            op, device, device, f"compiled kernel of bido_{device}{forced}{hardware}{note}"
        )
    reason = problem if has_kernel else f"bido_{device} has no kernel for it"
    if FORCED == "native" and device == "cuda":
        return BackendRow(op, device, "refused", f"BIDO_EXT_BACKEND=native: {reason}{note}")
    return BackendRow(op, device, "reference", f"{reason}{note}")


def build_info() -> dict[str, str]:
    """Compiler, PyTorch headers and CUDA architectures of the compiled parts; empty if none."""
    try:
        module = importlib.import_module("bido_ext._C")
    except ImportError:
        return {}
    return dict(module.build_info())

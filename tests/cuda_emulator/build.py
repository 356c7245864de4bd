# SPDX-License-Identifier: Apache-2.0
"""Compiles csrc/cuda for the emulator: the kernels of bido_cuda as functions of CPU tensors."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
TORCH = Path(torch.__file__).parent
FLAGS = [
    "-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-DBIDO_EMULATED", "-DTORCH_TARGET_VERSION=0x020a000000000000",
    f"-I{ROOT / 'tests/cuda_emulator'}", f"-I{ROOT / 'csrc/cuda'}", "-isystem", str(TORCH / "include"),
]  # fmt: skip


def sources() -> list[Path]:
    """What is compiled; each .cu file as C++."""
    kernels = sorted((ROOT / "csrc/cuda").glob("*.cu"))
    own = [ROOT / "tests/cuda_emulator" / name for name in ("emulator.cpp", "faulty_kernels.cu")]
    return [*kernels, ROOT / "csrc/cuda/library.cpp", *own]


def compiler() -> str:
    """The C++ compiler; skips where the emulator cannot run."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("the CUDA emulator switches stacks of x86-64")
    program = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if program is None:
        pytest.skip("no C++ compiler to build the CUDA emulator with")
    return program


@functools.cache
def load() -> Any:
    """torch.ops.bido_cuda_emulated, built once per state of the sources (build/cuda_emulator)."""
    program = compiler()
    headers = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cuh")]
    own = list((ROOT / "tests/cuda_emulator").glob("*.h"))
    digest = hashlib.sha256((program + torch.__version__ + " ".join(FLAGS)).encode())
    for path in sorted([*sources(), *headers, *own]):
        digest.update(path.read_bytes())
    folder = ROOT / "build/cuda_emulator"
    library = folder / f"bido_cuda_emulated_{digest.hexdigest()[:16]}.so"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):  # several workers of one run need it at the same time
        if not library.exists():
            _build(program, library)
    torch.ops.load_library(str(library))
    return torch.ops.bido_cuda_emulated


def _build(program: str, library: Path) -> None:
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        objects = list(pool.map(functools.partial(_compile, program, library.parent), sources()))
    partial = library.with_suffix(f".{os.getpid()}")
    _run([
        program, "-shared", "-o", str(partial), *map(str, objects), f"-L{TORCH / 'lib'}", "-ltorch_cpu",
    ])  # fmt: skip
    partial.replace(library)


def _compile(program: str, folder: Path, source: Path) -> Path:
    target = folder / f"{source.stem}.{os.getpid()}.o"
    _run([program, *FLAGS, "-x", "c++", "-c", str(source), "-o", str(target)])
    return target


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, " ".join(command) + "\n" + done.stderr[-4000:]


def functions(names: tuple[str, ...]) -> dict[str, Callable[..., Any]]:
    """The emulated functions with the signatures of the contracts' defaults."""
    return {name: _told_the_precision(name, getattr(load(), name)) for name in names}


def _told_the_precision(name: str, kernel: Any) -> Callable[..., Any]:
    if name == "double_center":
        return kernel  # type: ignore[no-any-return]
    return lambda *args: kernel(*args, torch.get_float32_matmul_precision() != "highest")

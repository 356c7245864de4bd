# SPDX-License-Identifier: Apache-2.0
"""Static proof on the compiled libraries: stable ABI, and no register spills in CUDA kernels."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bido_ext

PACKAGE = Path(bido_ext.__file__).parent
LIBRARIES = ["bido_cpu.so", "bido_cuda.so"]


def built(library: str) -> Path:
    path = PACKAGE / library
    if not path.exists():
        pytest.skip(f"{library} was not built on this machine")
    return path


@pytest.mark.parametrize("library", LIBRARIES)
def test_stable_abi(library: str) -> None:
    path = built(library)
    program = Path(sys.executable).parent / "torch-abi-audit"
    if not program.exists():
        pytest.skip("torch-abi-audit is not installed (extra test)")
    result = subprocess.run([str(program), str(path)], capture_output=True, text=True, check=True)
    assert re.search(r"Torch ABI:\s+STABLE", result.stdout)
    assert re.search(r"Min torch:\s+2\.10\.0", result.stdout)


def cuobjdump() -> str:
    program = shutil.which("cuobjdump") or "/usr/local/cuda/bin/cuobjdump"
    spec = importlib.util.find_spec("triton")
    if not Path(program).exists() and spec is not None and spec.submodule_search_locations:
        program = str(Path(spec.submodule_search_locations[0]) / "backends/nvidia/bin/cuobjdump")
    if not Path(program).exists():
        pytest.skip("no cuobjdump to read the CUDA library with")
    return program


def test_cuda_kernels_do_not_spill() -> None:
    path = built("bido_cuda.so")
    usage = subprocess.run(
        [cuobjdump(), "-res-usage", str(path)], capture_output=True, text=True, check=True
    ).stdout
    kernels = re.findall(
        r"Function (\S*_kernel\S*):\s*\n\s*REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", usage
    )
    assert kernels, usage[:500]
    for name, registers, stack, local in kernels:
        assert int(local) == 0, f"{name} spills {local} bytes"
        assert int(stack) == 0, f"{name} uses {stack} bytes of stack"
        assert int(registers) <= 255

# SPDX-License-Identifier: Apache-2.0
"""Static proof on the compiled libraries: stable ABI, and no register spills in CUDA kernels."""

from __future__ import annotations

import functools
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


@functools.cache
def sass(architecture: str) -> dict[str, str]:
    """The machine code of each kernel of bido_cuda for one architecture; skips where it was not built for it."""
    path = built("bido_cuda.so")
    listing = subprocess.run(
        [cuobjdump(), "-sass", "-arch", architecture, str(path)],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    parts = re.split(r"Function : (\S+)", listing)
    if len(parts) < 3:
        pytest.skip(f"bido_cuda was not built for {architecture}")
    return dict(zip(parts[1::2], parts[2::2], strict=True))


PRODUCTS = ("gram_panel_kernel", "partial_products_kernel", "weighted_product_kernel")


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a", "sm_100"])
def test_cuda_products_run_on_the_matrix_units(architecture: str) -> None:
    """mma.sync wherever a warp multiplies; wgmma on Hopper for the large tiles, which elsewhere are empty."""
    seen = dict.fromkeys(PRODUCTS, 0)
    for name, code in sass(architecture).items():
        product = next((p for p in PRODUCTS if p in name), None)
        if product is None:
            continue
        seen[product] += 1
        if "WarpgroupTile" not in name:
            assert "HMMA" in code, name
            assert "HGMMA" not in code, name
        elif architecture == "sm_90a":
            assert "HGMMA" in code, name
        else:
            assert "MMA" not in code, name
    assert all(seen.values()), seen


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a", "sm_100"])
def test_cuda_reductions_have_no_float_atomics(architecture: str) -> None:
    for name, code in sass(architecture).items():
        assert not re.search(r"\b(RED|ATOM|ATOMG|ATOMS)\b", code), name

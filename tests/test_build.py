# SPDX-License-Identifier: Apache-2.0
"""Static proof on the compiled libraries: stable ABI, no register spills in CUDA kernels; and which architectures
are built."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bido_ext

PACKAGE = Path(bido_ext.__file__).parent
ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ["bido_cpu.so", "bido_cuda.so"]


def built(library: str) -> Path:
    path = PACKAGE / library
    if not path.exists():
        pytest.skip(f"{library} was not built on this machine")
    return path


@pytest.mark.parametrize("library", LIBRARIES)
def test_stable_abi(library: str) -> None:
    path = built(library)
    if sys.version_info < (3, 11):
        pytest.skip("torch-abi-audit has no release for Python 3.10")
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


#: sm_100 takes the branches of sm_80; its listing takes as long as both others.
ARCHITECTURES = ["sm_80", "sm_90a", pytest.param("sm_100", marks=pytest.mark.slow)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
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
            # What was written to shared memory is shown to the matrix unit, and the accumulators are its own.
            assert "FENCE.VIEW.ASYNC" in code, name
            assert "WARPGROUP.ARRIVE" in code, name
        else:
            assert "MMA" not in code, name
    assert all(seen.values()), seen


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cuda_reductions_have_no_float_atomics(architecture: str) -> None:
    for name, code in sass(architecture).items():
        assert not re.search(r"\b(RED|ATOM|ATOMG|ATOMS)\b", code), name


#: The least shared memory a block may have on an architecture served (sm_86, sm_89, sm_120), and on Hopper.
SHARED_EVERYWHERE = 99 * 1024


def test_static_shared_memory_leaves_room_for_the_tiles() -> None:
    """product_tile.cuh counts a number per row beside its tiles; sm_90 and newer add 1 KB of the system's own."""
    path = built("bido_cuda.so")
    usage = subprocess.run(
        [cuobjdump(), "-res-usage", str(path)], capture_output=True, text=True, check=True
    ).stdout
    kernels = re.findall(r"Function (\S*_kernel\S*):\s*\n\s*REG:\d+ .*?SHARED:(\d+)", usage)
    assert kernels, usage[:500]
    for name, shared in kernels:
        few = any(product in name for product in PRODUCTS)
        assert int(shared) <= (1024 + 128 * 4 if few else SHARED_EVERYWHERE), name


NVCC_13 = (75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121)
NVCC_12_0 = (50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90)


def architectures(folder: Path, release: str, known: tuple[int, ...], asked: str) -> str:
    """What CMake says of a compiler that names itself so."""
    nvcc = folder / "nvcc"
    listed = "\n".join(f"compute_{k}" for k in known)
    nvcc.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "Cuda compilation tools, release {release}, V{release}.1"\n'
        f'[ "$1" = --list-gpu-arch ] && echo "{listed}"\nexit 0\n'
    )
    nvcc.chmod(0o755)
    cmake = Path(sys.executable).parent / "cmake"
    program = str(cmake) if cmake.exists() else shutil.which("cmake")
    if program is None:
        pytest.skip("no cmake to ask")
    script = Path(__file__).resolve().parents[1] / "csrc/cuda/architectures.cmake"
    done = subprocess.run(
        [program, f"-DNVCC={nvcc}", f"-DBIDO_CUDA_ARCHS={asked}", "-P", str(script)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = " ".join((done.stdout + done.stderr).split())
    assert (done.returncode != 0) == ("CMake Error" in said), said
    return said


@pytest.mark.parametrize(
    ("release", "known", "asked", "said"),
    [
        ("13.0", NVCC_13, "", "[80-real;90a-real;100]"),
        ("12.0", NVCC_12_0, "", "[80;90a-real]"),  # PTX of 90a would serve no other GPU
        ("12.0", NVCC_12_0, "", "does not know architecture 100: left out"),
        ("11.8", NVCC_12_0, "", "nvcc 12.0 or newer: bido_cuda is not built"),
        ("11.8", NVCC_12_0, "", "[]"),
        ("11.8", NVCC_12_0, "80", 'CMake Error .*BIDO_CUDA_ARCHS="80": nvcc 11.8 .*Update CUDA'),
        ("12.0", NVCC_12_0, "80;100", "CMake Error .*nvcc 12.0 does not know 100, only 50;"),
        ("13.0", NVCC_13, "90a", "[90a-real]"),
        ("13.0", NVCC_13, "90a", "gets no PTX: it runs on the GPUs of 90a alone"),
        ("13.0", NVCC_13, "80;90a", "[80;90a-real]"),
        ("13.0", NVCC_13, "120;80", "[120;80-real]"),
        ("13.0", NVCC_13, "90", "[90]"),
        ("13.0", NVCC_13, "90;90a", "CMake Error .*names both 90 and 90a: keep 90a"),
        ("13.0", NVCC_13, "80 90a", 'CMake Error .*"80 90a" is no architecture'),
        ("13.0", NVCC_13, "native", "[native]"),
    ],
)
def test_architectures(
    release: str, known: tuple[int, ...], asked: str, said: str, tmp_path: Path
) -> None:
    output = architectures(tmp_path, release, known, asked)
    if said.startswith("["):
        assert f"architectures: {said}" in output
    else:
        assert re.search(said, output), output


def test_folders_with_commas_and_spaces(tmp_path: Path) -> None:
    """The linker takes options apart at commas: no path may be in one."""
    pybind11 = pytest.importorskip("pybind11", reason="pybind11 is not installed")
    if shutil.which("ninja") is None and not (Path(sys.executable).parent / "ninja").exists():
        pytest.skip("no ninja to configure for")
    here, libraries = tmp_path / "a, b", tmp_path / "c, d"
    libraries.mkdir()
    shutil.copy(ROOT / "CMakeLists.txt", tmp_path)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    program = Path(sys.executable).parent / "cmake"
    done = subprocess.run(
        [
            str(program) if program.exists() else "cmake", "-S", str(tmp_path), "-B", str(here),
            "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}", "-DBIDO_WITH_CUDA=0",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", "-DTORCH_INCLUDE=include",
            f"-DTORCH_LIB={libraries}", "-DTORCH_VERSION=2.14", "-DBIDO_VERSION=0",
        ],
        capture_output=True, text=True, check=False,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rules = (here / "build.ninja").read_text()
    assert f'-L"{libraries}"' in rules
    assert not re.search(rf"-Wl,\S*{re.escape(str(tmp_path))}", rules)

# SPDX-License-Identifier: Apache-2.0
"""bido_cpu built with AddressSanitizer and UndefinedBehaviorSanitizer, under the op tests and the fuzzer.

BIDO_FUZZ_CALLS sets how many calls the fuzzer makes (default 2,000).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bido_ext

ROOT = Path(__file__).resolve().parents[1]
SANITIZERS = "address,undefined"
pytestmark = pytest.mark.slow


def runtimes() -> str:
    """The sanitizers' runtimes, to be loaded before everything else."""
    found = []
    for name in ("libasan.so", "libubsan.so", "libstdc++.so.6"):
        path = subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        if not Path(path).is_absolute():
            pytest.skip(f"g++ has no {name}")
        found.append(path)
    return " ".join(found)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with a sanitized bido_cpu."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    pybind11 = pytest.importorskip("pybind11")
    tools = Path(sys.executable).parent
    if not (tools / "cmake").exists() or not (tools / "ninja").exists():
        pytest.skip("no cmake or ninja beside this Python")
    folder = tmp_path_factory.mktemp("sanitized")
    root = Path(torch.__file__).parent
    environment = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    build = folder / "build"
    configure = [
        "cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", "-DCMAKE_CXX_COMPILER=g++",
        f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DTORCH_INCLUDE={root / 'include'};{root / 'include/torch/csrc/api/include'}",
        f"-DTORCH_LIB={root / 'lib'}", f"-DTORCH_VERSION={torch.__version__}", "-DBIDO_VERSION=0",
        "-DBIDO_WITH_CUDA=0", f"-DBIDO_SANITIZE={SANITIZERS}",
    ]  # fmt: skip
    for command in (configure, ["cmake", "--build", str(build), "--target", "bido_cpu"]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    source = Path(bido_ext.__file__).parent
    shutil.copytree(source, folder / "bido_ext", ignore=shutil.ignore_patterns("bido_cuda.so"))
    shutil.copy2(build / "bido_cpu.so", folder / "bido_ext" / "bido_cpu.so")
    return folder


def run(package: Path, *command: str, **variables: str) -> str:
    environment = os.environ | {
        "LD_PRELOAD": runtimes(),
        # PyTorch and Python keep memory until they end; what is looked for is reads and writes out of bounds.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=99",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONPATH": f"{package}{os.pathsep}{ROOT / 'tests'}",
        "BIDO_EXT_BACKEND": "native",
        "OMP_NUM_THREADS": "2",
        "TRITON_INTERPRET": "0",
        **variables,
    }
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, cwd=package
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-6000:]
    assert "Sanitizer" not in said
    assert "runtime error" not in said
    return done.stdout


def test_the_sanitized_library_serves(package: Path) -> None:
    said = run(
        package, "-c",
        "import bido_ext, sys; print(bido_ext.__file__); print('libasan' in open('/proc/self/maps').read());"
        "print([row.implementation for row in bido_ext.backends() if row.op == 'hsic'][0])",
    )  # fmt: skip
    lines = said.split()
    assert lines[0].startswith(str(package))
    assert lines[1:] == ["True", "cpu"]


def test_fuzz(package: Path) -> None:
    calls = os.environ.get("BIDO_FUZZ_CALLS", "2000")
    pytest.importorskip("hypothesis")
    said = run(package, str(ROOT / "tests" / "fuzz_ops.py"), calls)
    print(said)
    assert f"{calls} calls, no crash" in said


@pytest.mark.parametrize(
    "op",
    [
        "gaussian_gram",
        "gram_stack",
        "double_center",
        "nhsic",
        "coco",
        "permuted_products",
        "distance_products",
        "bad_input",
    ],
)
def test_op_tests(package: Path, op: str) -> None:
    """The op's own tests, with the package that is on the path."""
    tests = str(ROOT / "tests" / "ops" / f"test_{op}.py")
    options = ["-q", "-x", "-p", "no:cacheprovider", "-k", "not compile and not opcheck"]
    said = run(
        package, "-m", "pytest", tests, *options, "--rootdir", str(package), "-c", "/dev/null",
        "--import-mode=importlib", "-W", "ignore",
    )  # fmt: skip
    assert " passed" in said


EVERY_SIZE = """
import torch, bido_ext
parameters = torch.full((2,), 0.1, dtype=torch.float64)
for dtype in (torch.float32, torch.float64):
    for n in range(1, 195):
        x = [torch.rand(n, d, dtype=dtype) for d in (3, 70)]
        stack = torch.ops.bido_ext.gram_stack(x, parameters, [0, 1])
        torch.ops.bido_ext.gram_stack_backward(stack, stack, x, parameters, [0, 1])
print("done")
"""


@pytest.mark.parametrize("isa", ["baseline", "x86-64-v3", "x86-64-v4"])
def test_few_rows_in_every_instruction_set(package: Path, isa: str) -> None:
    """Tiles have other sizes in each of them, and so have the rows that they read beyond the last."""
    from torch.backends.cpu import get_cpu_capability

    if isa == "x86-64-v4" and get_cpu_capability() != "AVX512":
        pytest.skip(f"this machine has no {isa}")
    assert "done" in run(package, "-c", EVERY_SIZE, BIDO_EXT_CPU_ISA=isa)

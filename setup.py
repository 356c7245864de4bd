# SPDX-License-Identifier: Apache-2.0
"""Builds bido_cpu, bido_cuda (when nvcc is found) and bido_ext._C with CMake and Ninja.

Environment: BIDO_CUDA_ARCHS names the CUDA architectures (default: what nvcc knows of 80, 90a and 100;
"90a" builds for Hopper alone, without PTX; "native" needs CMake 3.24 and a GPU). bido_cuda needs nvcc 12.0
or newer. BIDO_WITH_CUDA=0 leaves it out, MAX_JOBS limits parallel compilation.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


LIBRARIES = ("bido_cpu.so", "bido_cuda.so")
_ADVICE = """
bido_ext is built with the PyTorch and the tools of this environment, and {!r} is not installed. Install first:
    pip install torch "setuptools>=77" wheel "cmake<5" ninja pybind11
"""


class CMakeBuild(build_ext):
    """One CMake build that installs every library beside the package's Python files."""

    def copy_extensions_to_source(self) -> None:
        # An editable install: setuptools copies _C alone, the kernel libraries belong beside it.
        super().copy_extensions_to_source()
        built = Path(self.build_lib).resolve() / "bido_ext"
        for library in LIBRARIES:
            if (built / library).exists():
                # A new file, then a rename: processes that have the old one mapped keep it.
                fresh = ROOT / "bido_ext" / f".{library}.new"
                shutil.copy2(built / library, fresh)
                os.replace(fresh, ROOT / "bido_ext" / library)

    def build_extension(self, ext: Extension) -> None:
        try:
            import pybind11
            import torch
        except ModuleNotFoundError as missing:
            raise SystemExit(_ADVICE.format(missing.name)) from None

        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = (
            Path(self.build_temp).resolve() / f"cmake-py{sys.version_info[0]}{sys.version_info[1]}"
        )
        torch_root = Path(torch.__file__).parent
        configure = [
            "cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
            f"-DCMAKE_INSTALL_PREFIX={target}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DTORCH_INCLUDE={torch_root / 'include'};{torch_root / 'include/torch/csrc/api/include'}",
            f"-DTORCH_LIB={torch_root / 'lib'}",
            f"-DTORCH_VERSION={torch.__version__}",
            f"-DBIDO_VERSION={self.distribution.get_version()}",
            f"-DBIDO_WITH_CUDA={os.environ.get('BIDO_WITH_CUDA', '1')}",
        ]  # fmt: skip
        if archs := os.environ.get("BIDO_CUDA_ARCHS"):
            configure.append(f"-DBIDO_CUDA_ARCHS={archs}")
        build_command = ["cmake", "--build", str(build)]
        if jobs := os.environ.get("MAX_JOBS"):
            build_command += ["--parallel", jobs]
        for command in (configure, build_command, ["cmake", "--install", str(build)]):
            subprocess.run(command, check=True, env=os.environ | _tool_path())


def _tool_path() -> dict[str, str]:
    """PATH with the cmake and ninja programs of the Python environment first, if it has them."""
    scripts = []
    for package in ("cmake", "ninja"):
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        scripts += [str(Path(f.locate()).parent.resolve()) for f in files if f.name == package]
    return {"PATH": os.pathsep.join([*scripts, os.environ.get("PATH", "")])}


setup(
    ext_modules=[Extension("bido_ext._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)

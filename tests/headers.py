# SPDX-License-Identifier: Apache-2.0
"""Compiles every C++ and CUDA source against the headers of one PyTorch: python tests/headers.py WHEEL_OR_FOLDER.

Taken is a wheel of PyTorch (only its torch/include is read) or a folder that has torch/include. C++ is checked
for syntax and types, CUDA is compiled to machine code for sm_90a without optimisation, some seconds a file. Exit
code 0: all compile. Without nvcc the CUDA sources are named as not compiled.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "csrc"
#: As in CMakeLists.txt: the oldest PyTorch the libraries run on.
FLAGS = ["-std=c++20", "-DTORCH_TARGET_VERSION=0x020a000000000000"]


@contextmanager
def headers_of(source: Path) -> Iterator[Path]:
    """The folder torch/include of a wheel or of a folder that holds torch."""
    if source.is_dir():
        yield source / "torch" / "include"
        return
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(source) as wheel:
        wheel.extractall(folder, [n for n in wheel.namelist() if n.startswith("torch/include/")])
        yield Path(folder) / "torch" / "include"


def commands(include: Path, scratch: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each source and what compiles it; nothing for CUDA where there is no nvcc."""
    torch = ["-isystem", str(include), "-isystem", str(include / "torch/csrc/api/include")]
    for path in sorted(SOURCES.glob("cpu/*.cpp")):
        level = {"products_v3": ["-march=x86-64-v3"], "products_v4": ["-march=x86-64-v4"]}
        own = level.get(path.stem, [])
        yield path, ["g++", "-fsyntax-only", "-fvisibility=hidden", *FLAGS, *own, *torch, str(path)]
    nvcc = shutil.which("nvcc")
    for path in sorted([*SOURCES.glob("cuda/*.cu"), *SOURCES.glob("cuda/*.cpp")]):
        if nvcc:
            quick = ["-Xcicc", "-O0", "-Xptxas", "-O0", "-arch=sm_90a", "-DUSE_CUDA"]
            # Host and device: --cubin alone would leave the host's part of the file unread.
            out = ["-c", "-o", str(scratch / "out.o"), "-Xcompiler", "-fPIC,-O0"]
            yield path, [nvcc, *FLAGS, *quick, "-DBIDO_BUILT_FOR_SM90A", *torch, *out, str(path)]


def main() -> int:
    failed = compiled = 0
    with (
        headers_of(Path(sys.argv[1])) as include,
        tempfile.TemporaryDirectory() as scratch,
    ):
        if not (include / "torch/csrc/stable").is_dir():
            print(f"{sys.argv[1]} has no torch/include with the stable ABI", file=sys.stderr)
            return 2
        for path, command in commands(include, Path(scratch)):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            compiled += done.returncode == 0
            if done.returncode:
                failed += 1
                print(f"{path.relative_to(SOURCES)}: {done.stderr.strip()[:2000]}")
    nvcc = "" if shutil.which("nvcc") else "; no nvcc, CUDA not compiled"
    print(f"{compiled} compiled, {failed} failed{nvcc}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Compiled libraries for a GPU machine, made on one without a GPU: ``python -m benchmarks.gpu_bundle``.

Builds bido_cpu, bido_cuda (sm_90a) and _C for a named Python and PyTorch into the folder gpu-bundle/, so that
no minute of a GPU is spent on compiling. ``python -m benchmarks.gpu_check`` takes it where it fits: the same
Python, PyTorch, sources and processor, and a card that runs the code of ``--archs``.

Example:
  python -m benchmarks.gpu_bundle --python 3.12 --torch 2.11.0
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "gpu-bundle"
PACKAGE = ROOT / "bido_ext"
MOST_BYTES = 40 << 20
TOOLS = ("setuptools>=77", "wheel", "cmake<5", "ninja", "pybind11", "numpy")


class BundleError(RuntimeError):
    """The bundle cannot be made or does not fit; says why and what to do."""


def source_digest(root: Path = ROOT) -> str:
    """Of all that is compiled."""
    digest = hashlib.sha256()
    files = [p for p in (root / "csrc").rglob("*") if p.is_file()]
    for path in sorted([*files, root / "CMakeLists.txt"]):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def here() -> dict[str, str]:
    """What a bundle has to be made for to serve this process."""
    release = importlib.metadata.version("torch").partition("+")[0]
    return {
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "torch": release,
        "machine": platform.machine(),
        "sources": source_digest(),
    }


def interpreter_of(version: str) -> str:
    """A Python of that version: on the PATH, or one that pyenv has."""
    if found := shutil.which(f"python{version}"):
        probe = subprocess.run([found, "-c", "import sys; print(*sys.version_info[:2], sep='.')"],
                               capture_output=True, text=True, check=False)  # fmt: skip
        if probe.stdout.strip() == version:  # a shim may stand for a version that is not chosen
            return found
    for path in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"), reverse=True):
        return str(path)
    raise BundleError(f"no Python {version} found; give one with --interpreter.")


def environment_of(python: str, torch: str, interpreter: str | None) -> Path:
    """A virtual environment with that PyTorch and the build tools; kept for the next time."""
    folder = ROOT / "build" / f"gpu-bundle-py{python}-torch{torch}"
    program = folder / "bin" / "python"
    if not (folder / ".complete").exists():
        subprocess.run(
            [interpreter or interpreter_of(python), "-m", "venv", str(folder)], check=True
        )
        install = [str(program), "-m", "pip", "install", "--quiet", *TOOLS, f"torch=={torch}"]
        subprocess.run(install, check=True)
        (folder / ".complete").touch()
    return program


def make_bundle(python: str, torch: str, program: Path, archs: str) -> dict[str, object]:
    """Builds with ``program`` and fills the folder."""
    if not all(re.fullmatch(r"\d+[af]?", name) for name in archs.split(";")):
        raise BundleError(f"--archs {archs!r}: name architectures, such as '90a' or '80;90a'.")
    tag = f"py{python}-torch{torch}"
    lib, temp = ROOT / "build" / f"bundle-lib-{tag}", ROOT / "build" / f"bundle-temp-{tag}"
    shutil.rmtree(lib, ignore_errors=True)
    subprocess.run(
        [str(program), "setup.py", "-q", "build_ext", "--build-lib", str(lib), "--build-temp", str(temp)],
        cwd=ROOT, check=True, env=os.environ | {"BIDO_CUDA_ARCHS": archs},
    )  # fmt: skip
    files = sorted((lib / "bido_ext").glob("*.so"))
    names = {path.name.partition(".")[0] for path in files}
    if missing := {"_C", "bido_cpu", "bido_cuda"} - names:
        raise BundleError(f"{', '.join(sorted(missing))} was not built (bido_cuda needs nvcc).")
    shutil.rmtree(BUNDLE, ignore_errors=True)
    BUNDLE.mkdir()
    for path in files:
        shutil.copy2(path, BUNDLE / path.name)
    size = sum(path.stat().st_size for path in files)
    facts: dict[str, object] = {
        "python": python, "torch": torch, "machine": platform.machine(), "archs": archs,
        "sources": source_digest(), "bytes": size,
        "files": [path.name for path in files],
    }  # fmt: skip
    (BUNDLE / "bundle.json").write_text(json.dumps(facts, indent=1) + "\n")
    if size > MOST_BYTES:
        raise BundleError(f"the bundle has {size / 2**20:.1f} MiB, more than {MOST_BYTES >> 20}.")
    return facts


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_bundle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--python", default="3.12", help="version of the GPU machine (default 3.12)"
    )
    parser.add_argument("--torch", default="2.11.0", help="its PyTorch (default 2.11.0)")
    parser.add_argument("--archs", default="90a", help="CUDA architectures (default 90a)")
    parser.add_argument("--interpreter", help="a Python of that version, to make an environment of")
    parser.add_argument("--program", type=Path, help="python of an environment that has it all")
    options = parser.parse_args()
    try:
        program = options.program or environment_of(
            options.python, options.torch, options.interpreter
        )
        facts = make_bundle(options.python, options.torch, Path(program).absolute(), options.archs)
    except (BundleError, subprocess.CalledProcessError) as error:
        print(f"gpu_bundle: {error}", file=sys.stderr)
        return 1
    size = int(str(facts["bytes"])) / 2**20
    print(
        f"gpu-bundle/: Python {options.python}, PyTorch {options.torch}, {options.archs}, {size:.1f} MiB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""What a release is made of: the wheel's platform and contents, other processors, the files around it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch

import bido_ext

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
INCLUDE = Path(torch.__file__).parent / "include"
CROSS = "aarch64-linux-gnu-g++"
#: Of x86-64 alone (CMakeLists.txt).
LEVELS = {"products_v3", "products_v4"}
SOURCES = [p for p in sorted((ROOT / "csrc" / "cpu").glob("*.cpp")) if p.stem not in LEVELS]
INTRINSICS = re.compile(r"immintrin\.h|\b_mm\d*_|__m(?:128|256|512)")
GUARD = re.compile(r"__x86_64__|__SSE|__AVX")


def test_intrinsics_of_one_processor_stand_behind_a_guard() -> None:
    found = 0
    for path in (ROOT / "csrc").rglob("*.*"):
        depth: list[bool] = []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.match(r"\s*#\s*if", line):
                depth.append(bool(GUARD.search(line)))
            elif re.match(r"\s*#\s*endif", line):
                depth.pop()
            elif INTRINSICS.search(line):
                found += 1
                assert any(depth) or path.stem in LEVELS, f"{path.name}:{number}"
    assert found


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=[path.stem for path in SOURCES])
def test_compiles_for_64_bit_arm(source: Path) -> None:
    if shutil.which(CROSS) is None:
        pytest.skip(f"no {CROSS}")
    done = subprocess.run(
        [CROSS, "-fsyntax-only", "-std=c++20", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden",
         "-DTORCH_TARGET_VERSION=0x020a000000000000", "-isystem", str(INCLUDE),
         "-isystem", str(INCLUDE / "torch/csrc/api/include"), str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without CUDA, as the wheels of a release are; BIDO_WHEEL names one that is there already."""
    if given := os.environ.get("BIDO_WHEEL"):
        return Path(given)
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps",
         str(ROOT), "--wheel-dir", str(folder)],
        env=os.environ | {"BIDO_WITH_CUDA": "0"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_is_of_one_cpython_and_holds_what_it_needs(wheel: Path) -> None:
    """PyTorch's ABI is stable and CPython's is not: _C, by pybind11, is made for one version."""
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    name, version, interpreter, abi, platform = wheel.stem.split("-")
    assert (name, version) == ("bido_ext", bido_ext.__version__)
    assert (interpreter, abi) == (python, python)
    assert platform.startswith(("linux_", "manylinux_", "macosx_"))
    with zipfile.ZipFile(wheel) as archive:
        held = archive.namelist()
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert {"bido_ext/bido_cpu.so", f"bido_ext/_C{suffix}", "bido_ext/py.typed"} <= set(held)
    others = [n for n in held if ".so" in n or ".dylib" in n or n.startswith(("tests", "csrc"))]
    assert len(others) == 2, "nothing of PyTorch, no CUDA library, no sources"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="auditwheel is of Linux")
def test_auditwheel_finds_only_pytorch_outside(wheel: Path, tmp_path: Path) -> None:
    pytest.importorskip("auditwheel", reason="auditwheel is not installed")
    command = SETTINGS["linux"]["repair-wheel-command"]
    words = command.format(dest_dir=tmp_path, wheel=wheel).split()
    done = subprocess.run(
        [sys.executable, "-m", *words, "--plat", "auto"],
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (repaired,) = tmp_path.glob("*.whl")
    assert "manylinux" in repaired.name
    with zipfile.ZipFile(repaired) as archive:
        assert not [name for name in archive.namelist() if ".libs/" in name]


@pytest.mark.slow
def test_the_wheel_serves_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "wheel_smoke.py")], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/bido_ext is right" in done.stdout


def test_the_smoke_test_refuses_the_clone() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "wheel_smoke.py")],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "is the clone, not an installed wheel" in done.stderr


def test_pythons_and_versions_agree_everywhere() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    tests = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    (matrix,) = re.findall(r"python: \[(.*)\]", tests)
    pythons = re.findall(r"3\.(\d+)", matrix)
    assert [f"cp3{minor}-*" for minor in pythons] == SETTINGS["build"]
    assert f'requires-python = ">=3.{pythons[0]}"' in project
    oldest = re.findall(r'"torch>=([\d.]+)"', project)
    assert set(oldest) == {"2.10"}
    assert f"torch==2.{oldest[0].split('.')[1]}.0" in tests
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {bido_ext.__version__}\n" in citation
    assert f"\n## {bido_ext.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    series = ".".join(bido_ext.__version__.split(".")[:2])
    assert f"| {series} | yes |" in (ROOT / "SECURITY.md").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=str)
def test_workflows_are_pinned_and_ask_for_little(path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    flow = yaml.safe_load(path.read_text())
    assert flow["permissions"] == {}
    for job in flow["jobs"].values():
        assert "permissions" in job
        for step in job.get("steps", ()):
            if used := step.get("uses"):
                assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", used), used
                if used.startswith("actions/checkout@"):
                    assert step["with"]["persist-credentials"] is False
            if target := re.match(r"make (\w+)$", step.get("run", "")):
                assert re.search(rf"^{target[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)

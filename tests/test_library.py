# SPDX-License-Identifier: Apache-2.0
"""Choosing an implementation: the table, forcing one, and saying why not."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from preloaded import run_python

import bido_ext as bx
from bido_ext.serving.choose import choose
from bido_ext.serving.implementations import functions_of
from bido_ext.serving.row import default_of, named

PACKAGE = Path(bx.__file__).parent


def run(
    code: str, backend: str | None = None, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {
        k: v for k, v in os.environ.items() if k not in ("BIDO_EXT_BACKEND", "PYTHONPATH")
    }
    environment.pop("TRITON_INTERPRET", None)
    if backend is not None:
        environment["BIDO_EXT_BACKEND"] = backend
    # The package at hand, also where it was built in place and never installed.
    environment["PYTHONPATH"] = str(path or PACKAGE.parent)
    return run_python(code, env=environment, cwd=path or "/")


TABLE = "import bido_ext as bx; print([(r.op, r.device, r.implementation, r.reason) for r in bx.backends()])"


def test_table_names_every_op_and_device_with_a_reason() -> None:
    rows = bx.backends()
    assert {(r.op, r.device) for r in rows} == {
        (op, device)
        for op in (
            "gaussian_gram",
            "gram_stack",
            "double_center",
            "hsic",
            "nhsic",
            "coco",
            "cka",
            "permuted_products",
            "distance_products",
        )
        for device in ("cpu", "cuda")
    }
    assert all(r.reason for r in rows)
    chosen = {(r.op, r.device): r.implementation for r in rows}
    assert chosen["hsic", "cpu"] == chosen["gram_stack", "cpu"] == "cpu"
    assert chosen["nhsic", "cpu"] == chosen["cka", "cuda"] == "composite"
    assert chosen["gaussian_gram", "cuda"] == "triton"
    assert chosen["permuted_products", "cpu"] == "cpu"
    assert chosen["permuted_products", "cuda"] == "reference"  # it has no kernel for GPUs
    reasons = {(r.op, r.device): r.reason for r in rows}
    # until a run on hardware is recorded
    assert "Triton kernel (never run on hardware)" in reasons["gaussian_gram", "cuda"]
    assert "each serves after a check at first use" in reasons["gaussian_gram", "cuda"]


def test_module_prints_the_table() -> None:
    result = run("import runpy; runpy.run_module('bido_ext', run_name='__main__')")
    assert result.returncode == 0, result.stderr
    assert "gaussian_gram" in result.stdout
    assert "composition of gram_stack and torch.linalg" in result.stdout
    assert "composition of hsic" in result.stdout


def test_forced_reference_computes_the_same() -> None:
    code = "import torch, bido_ext as bx; torch.manual_seed(0); print(float(bx.nhsic(torch.rand(9, 4), torch.arange(9) % 2)))"
    native, reference = run(code), run(code, "reference")
    assert reference.returncode == 0, reference.stderr
    assert float(native.stdout) == pytest.approx(float(reference.stdout), rel=1e-5)
    table = run(TABLE, "reference").stdout
    assert "'cpu', 'cpu'" not in table
    assert "BIDO_EXT_BACKEND=reference" in table


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        (
            "fastest",
            "BIDO_EXT_BACKEND='fastest' is not a backend; allowed: native, triton, reference",
        ),
        (
            "triton",
            "BIDO_EXT_BACKEND=triton cannot run: there is no CUDA device",
        ),
    ],
)
def test_forced_backend_that_cannot_run_raises(backend: str, message: str) -> None:
    result = run("import bido_ext", backend)
    assert result.returncode != 0
    assert message in result.stderr


@pytest.fixture
def copy_without_libraries(tmp_path: Path) -> Path:
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "bido_ext", ignore=ignore)
    return tmp_path


def test_without_compiled_libraries_everything_runs_as_reference(
    copy_without_libraries: Path,
) -> None:
    code = (
        TABLE + "; import torch; print(float(bx.hsic(torch.rand(5, 3), torch.arange(5) % 2)) > 0)"
    )
    result = run(code, path=copy_without_libraries)
    assert result.returncode == 0, result.stderr
    assert "bido_cpu.so was not built with this installation" in result.stdout
    # Nothing is broken, there is nothing; at most the copy hides an installed package.
    assert "does not load" not in result.stderr
    assert result.stdout.strip().endswith("True")
    forced = run("import bido_ext", "native", copy_without_libraries)
    assert (
        "BIDO_EXT_BACKEND=native cannot run on the CPU: bido_cpu.so was not built" in forced.stderr
    )


def test_sources_that_hide_the_installed_package_are_named(
    copy_without_libraries: Path, tmp_path: Path
) -> None:
    # As in a clone after "pip install .": the folder of the command comes first.
    site = tmp_path / "site"
    (site / "bido_ext-0.0.dist-info").mkdir(parents=True)
    (site / "bido_ext-0.0.dist-info" / "METADATA").write_text("Name: bido-ext\nVersion: 0.0\n")
    (site / "bido_ext").mkdir()
    (site / "bido_ext" / "bido_cpu.so").touch()
    code = f"import sys; sys.path.append({str(site)!r}); {TABLE}; "
    code += "from bido_ext.diagnosis import verdict; print(verdict())"
    result = run(code, path=copy_without_libraries)
    assert result.returncode == 0, result.stderr
    assert f"hide the installed package in {site / 'bido_ext'}" in result.stdout
    assert "Start Python in another folder" in result.stdout
    assert result.stderr.count("RuntimeWarning: bido_ext: the sources") == 1


def test_broken_library_says_why(copy_without_libraries: Path) -> None:
    (copy_without_libraries / "bido_ext" / "bido_cpu.so").write_bytes(b"not a library")
    result = run(TABLE, path=copy_without_libraries)
    assert result.returncode == 0, result.stderr
    assert "bido_cpu.so does not load" in result.stdout
    # Said once, with the loader's own reason and what to do.
    assert result.stderr.count("RuntimeWarning") == 1
    assert "bido_cpu.so does not load" in result.stderr
    assert "file too short" in result.stderr or "invalid ELF header" in result.stderr
    assert "pip install --force-reinstall --no-deps bido-ext" in result.stderr


def test_import_needs_no_lab_package() -> None:
    code = (
        "import sys\n"
        "for name in ('torchvision', 'torchmetrics', 'matplotlib', 'typer', 'tqdm', 'platformdirs'):\n"
        "    sys.modules[name] = None\n"
        "import bido_ext, torch\n"
        "print(float(bido_ext.hsic(torch.rand(4, 2), torch.arange(4) % 2)) >= 0)"
    )
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_build_facts() -> None:
    info = bx.build_info()
    assert info["oldest_torch"] == "2.10"
    assert info["version"] == bx.__version__
    assert set(info) >= {"compiler", "torch_at_build", "cuda_compiler", "cuda_architectures"}


needs_cuda_library = pytest.mark.skipif(
    not (PACKAGE / "bido_cuda.so").exists(), reason="bido_cuda was not built: nvcc was not found"
)
needs_cuda_torch = pytest.mark.skipif(
    torch.version.cuda is None, reason="this PyTorch has no CUDA libraries to load bido_cuda with"
)


@needs_cuda_library
@needs_cuda_torch
def test_cuda_library_loads_and_is_labelled_as_never_run() -> None:
    table = run(TABLE, "native").stdout
    for op in ("gaussian_gram", "gram_stack", "double_center", "hsic"):
        assert f"('{op}', 'cuda', 'cuda', 'kernel of bido_cuda (never run" in table
    assert "n <= 128: kernel of bido_cuda" in table
    assert "never run on hardware" in table
    code = (
        "import torch, bido_ext as bx\n"
        "from bido_ext.serving.choose import choose\n"
        "from bido_ext.serving.implementations import functions_of\n"
        "from bido_ext.serving.row import ROWS, named\n"
        "has = torch._C._dispatch_has_kernel_for_dispatch_key\n"
        "rows = [row for row in ROWS.values() if row.get('cuda')]\n"
        "names = [name for row in rows for name in row.functions]\n"
        "print(all(has(f'bido_ext::{name}', 'CUDA') for name in names))\n"
        "print(sorted(n for row in rows for n in functions_of(row.op, 'cuda')) == sorted(names))\n"
        "def group(dtype):\n"
        "    x = [torch.rand(4, 3, dtype=dtype)] * 2\n"
        "    return named('hsic', (x, None, [0, 0], [0], [1], False, 4, -1))\n"
        "device = torch.device('cuda')\n"
        "print(choose('hsic', group(torch.float32), device, 'native').__name__)\n"
        "try:\n    choose('hsic', group(torch.float64), device, 'native')\n"
        "except NotImplementedError as error:\n    print(error)\n"
    )
    told = run(code, "native").stdout
    assert told.startswith("True\nTrue\nbido_cuda.hsic\n")
    assert "the cuda kernels do not take float64 features (bido_ext::hsic)" in told


def test_a_forced_backend_leaves_what_it_does_not_take_to_a_composition() -> None:
    """nhsic is a composition of ops, with a kernel for few samples; large batches and float64 compose."""
    default = default_of("nhsic")
    few, many = torch.rand(64, 3), torch.rand(300, 3)
    device = torch.device("cuda")

    def chosen(x: torch.Tensor, wide: bool, dtype: torch.dtype) -> object:
        args = ([x.to(dtype)], None, [0], [0], [0], 1e-5, wide, [])
        return choose("nhsic", named("nhsic", args), device, "native")

    assert chosen(many, True, torch.float32) is default
    assert chosen(few, False, torch.float32) is default
    assert chosen(few, True, torch.float64) is default
    if (PACKAGE / "bido_cuda.so").exists() and torch.version.cuda is not None:
        assert chosen(few, True, torch.float32) is functions_of("nhsic", "cuda")["nhsic"]

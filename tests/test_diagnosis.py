# SPDX-License-Identifier: Apache-2.0
"""The verdict of ``bido doctor``: each thing that can be wrong is named with its remedy, the worst first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bido_ext import diagnosis
from bido_ext.serving import libraries

GRAPH = """
import torch
def call(args):
    buf0 = torch.ops.bido_ext.{op}.default({arguments})
    return (buf0,)
"""


@pytest.fixture(autouse=True)
def _healthy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever this test run forces, the installation looks sound."""
    monkeypatch.setattr(libraries, "FORCED", None)
    monkeypatch.setattr(libraries, "problems", {"cpu": None, "cuda": None})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))


def test_all_good() -> None:
    assert diagnosis.findings() == []
    assert diagnosis.verdict() == "all good"


def test_each_fault_has_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(libraries.problems, "cpu", "bido_cpu.so does not load: no such symbol")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 999)
    told = diagnosis.verdict()
    assert "no such symbol" in told
    assert "pip install" in told
    assert told.endswith("(1 more after that)")
    assert "OMP_NUM_THREADS" in diagnosis.findings()[1].remedy
    monkeypatch.setattr(libraries, "FORCED", "reference")
    assert "Unset it" in diagnosis.verdict()


def test_a_gpu_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(libraries, "has_triton", lambda: False)
    monkeypatch.setitem(
        libraries.problems, "cuda", "bido_cuda.so was not built with this installation"
    )
    assert "triton" in diagnosis.verdict().lower()
    monkeypatch.setattr(libraries, "has_triton", lambda: True)
    assert diagnosis.verdict() == "all good"


def test_compiled_graphs_of_another_version(tmp_path: Path) -> None:
    most = len(torch.ops.bido_ext.double_center.default._schema.arguments)
    cases = {
        "fits": ("double_center", ", ".join(["K"] * most), False),
        "too_many": ("double_center", ", ".join(["K"] * (most + 1)), True),
        "too_few": ("double_center", "", True),
        "no_such_op": ("triple_center", "K", True),
    }
    for name, (op, arguments, stale) in cases.items():
        folder = tmp_path / name / "ab"
        folder.mkdir(parents=True)
        (folder / f"{name}.py").write_text(GRAPH.format(op=op, arguments=arguments))
        assert bool(list(diagnosis.stale_graphs(tmp_path / name))) is stale, name
    cache = tmp_path / "cache" / "ab"
    cache.mkdir(parents=True)
    (cache / "old.py").write_text(GRAPH.format(op="triple_center", arguments="K"))
    (cache / "other.py").write_text("buf = torch.ops.aten.mm.default(a)")
    assert f"Delete {tmp_path / 'cache'}" in diagnosis.verdict()
    assert list(diagnosis.stale_graphs(tmp_path / "cache", seconds=-1.0)) == []


def test_the_cache_is_where_inductor_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    assert str(diagnosis.cache_folder()) == os.environ["TORCHINDUCTOR_CACHE_DIR"]
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    assert str(diagnosis.cache_folder()) == default_cache_dir()


def test_the_module_ends_with_the_verdict(tmp_path: Path) -> None:
    environment = {**os.environ, "BIDO_EXT_BACKEND": "reference", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bido_ext"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1].startswith("to fix: BIDO_EXT_BACKEND=reference")

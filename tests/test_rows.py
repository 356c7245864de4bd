# SPDX-License-Identifier: Apache-2.0
"""One op is one row: every file of it carries its name, and a page's table says what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bido_ext.ops  # noqa: F401
from bido_ext.serving.row import ROWS

ROOT = Path(__file__).resolve().parents[1]
CELLS = {
    "contract": "bido_ext/ops/{op}.py",
    "row": "bido_ext/rows/{op}.py",
    "reference": "bido_ext/reference/{op}.py",
    "CPU": "csrc/cpu/{op}_kernel.cpp",
    "CUDA": "csrc/cuda/{op}_kernel.cu",
    "Triton": "bido_ext/triton_kernels/{op}.py",
    "composed": "bido_ext/composed/{op}.py",
    "test": "tests/ops/test_{op}.py",
    "benchmark": "benchmarks/ops/{op}.py",
}
#: The columns of implementations.
KERNELS = {"CPU": "cpu", "CUDA": "cuda", "Triton": "triton", "composed": "composed"}


def exists(op: str, column: str) -> bool:
    return (ROOT / CELLS[column].format(op=op)).exists()


@pytest.mark.parametrize("op", ROWS)
def test_row_is_complete(op: str) -> None:
    missing = [column for column in CELLS if column not in KERNELS and not exists(op, column)]
    assert not missing, f"{op} lacks {[CELLS[column].format(op=op) for column in missing]}"


def test_a_row_is_found_by_its_file() -> None:
    files = {path.stem for path in (ROOT / "bido_ext" / "rows").glob("[!_]*.py")}
    assert files == set(ROWS)


@pytest.mark.parametrize("op", ROWS)
def test_the_table_of_ops_shows_the_row(op: str) -> None:
    without = "composition" if ROWS[op].composition else "–"
    cells = ["yes" if exists(op, column) else without for column in KERNELS]
    line = f"| `{op}` | {' | '.join(cells)} |"
    page = ROOT / "docs" / "how_an_op_is_built.md"
    assert line in page.read_text(), f"{page.name} lacks the line\n{line}"


@pytest.mark.parametrize("op", ROWS)
def test_a_row_names_the_implementations_that_are_there(op: str) -> None:
    there = {name for column, name in KERNELS.items() if exists(op, column)}
    assert {i.name for i in ROWS[op].implementations if not i.module} == there


@pytest.mark.parametrize("op", ROWS)
def test_a_further_form_is_a_file_of_the_op(op: str) -> None:
    for form in ROWS[op].implementations:
        if form.module:
            package = "triton_kernels" if form.of_triton else "composed"
            assert form.module == f"bido_ext.{package}.{op}_{form.name}"
            assert form.what
            assert (ROOT / (form.module.replace(".", "/") + ".py")).exists()


def test_serving_knows_no_op_by_name() -> None:
    words = {name for row in ROWS.values() for name in (row.op, *row.functions)}
    for path in (ROOT / "bido_ext" / "serving").glob("*.py"):
        said = set(re.findall(r"\w+", path.read_text()))
        assert not said & words, f"{path.name} names {said & words}"

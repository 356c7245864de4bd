# SPDX-License-Identifier: Apache-2.0
"""One op is one row: contract, reference, kernels, test and benchmark carry the same name, and the
README's table says what is there.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bido_ext._library import ALL_OPS, COMPOSITES, CPU_KERNELS, CUDA_KERNELS, TRITON_KERNELS

ROOT = Path(__file__).resolve().parents[1]
CELLS = {
    "contract": "bido_ext/ops/{op}.py",
    "reference": "bido_ext/reference/{op}.py",
    "CPU": "csrc/cpu/{op}_kernel.cpp",
    "CUDA": "csrc/cuda/{op}_kernel.cu",
    "Triton": "bido_ext/triton_kernels/{op}.py",
    "test": "tests/ops/test_{op}.py",
    "benchmark": "benchmarks/ops/{op}.py",
}


def row(op: str) -> list[str]:
    cells = []
    for column, pattern in CELLS.items():
        path = pattern.format(op=op)
        if (ROOT / path).exists():
            cells.append(f"`{path}`")
        elif column in ("CPU", "CUDA", "Triton"):
            cells.append("composite" if op in COMPOSITES else "–")
        else:
            cells.append("MISSING")
    return cells


@pytest.mark.parametrize("op", ALL_OPS)
def test_row_is_complete(op: str) -> None:
    assert "MISSING" not in row(op), row(op)


@pytest.mark.parametrize("op", ALL_OPS)
def test_readme_shows_the_row(op: str) -> None:
    line = f"| `{op}` | {' | '.join(row(op))} |"
    assert line in (ROOT / "README.md").read_text(), f"README.md lacks the line\n{line}"


def test_kernel_lists_match_the_tree() -> None:
    lists = {"CPU": CPU_KERNELS, "CUDA": CUDA_KERNELS, "Triton": TRITON_KERNELS}
    for column, ops in lists.items():
        pattern = CELLS[column]
        assert {op for op in ALL_OPS if (ROOT / pattern.format(op=op)).exists()} == set(ops)

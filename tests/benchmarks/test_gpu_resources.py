# SPDX-License-Identifier: Apache-2.0
"""benchmarks.gpu_resources: what cuobjdump prints becomes one row a kernel."""

from __future__ import annotations

import shutil

import pytest

from benchmarks.gpu_resources import demangled, short, table, usage_of

REPORT = """
Fatbin elf code:
================
arch = sm_80

Resource usage:
 Common:
  GLOBAL:28 CONSTANT[4]:224
 Function _ZN4bido12_GLOBAL__N_112means_kernelIfEEvPKf:
  REG:32 STACK:0 SHARED:64 LOCAL:0 CONSTANT[0]:408 TEXTURE:0 SURFACE:0 SAMPLER:0
arch = sm_100
 Function _ZN4bido12_GLOBAL__N_112means_kernelIfEEvPKf:
  REG:40 STACK:16 SHARED:128 LOCAL:0 CONSTANT[0]:408
 Function other:
  REG:255 STACK:0 SHARED:0 LOCAL:8
"""


def test_rows_by_architecture() -> None:
    found = usage_of(REPORT)
    assert list(found) == ["_ZN4bido12_GLOBAL__N_112means_kernelIfEEvPKf", "other"]
    assert found["other"]["sm_100"].local == 8
    lines = table(found, dict(zip(found, ("means_kernel<float>", "other"), strict=True))).split(
        "\n"
    )
    assert [line.split() for line in lines] == [
        ["kernel", "shared", "sm_80", "sm_100"],
        ["means_kernel<float>", "128", "32", "40", "+", "16"],
        ["other", "0", "-", "255", "+", "8"],
    ]


@pytest.mark.parametrize(
    ("signature", "name"),
    [
        ("void bido::(anonymous namespace)::means_kernel<float>(float const*, long)", "means_kernel<float>"),
        ("bido::(anonymous namespace)::row_sums_kernel(double*)", "row_sums_kernel"),
        ("void bido::k<bido::Tile<bido::Half, (int)128, (int)64> >(bido::Rows<(int)2>)", "k<Tile<Half,128,64>>"),
    ],
)  # fmt: skip
def test_names_are_short(signature: str, name: str) -> None:
    assert short(signature) == name


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="c++filt is not installed")
def test_names_are_demangled() -> None:
    assert demangled(["_ZN4bido12_GLOBAL__N_112means_kernelIfEEvPKf"]) == {
        "_ZN4bido12_GLOBAL__N_112means_kernelIfEEvPKf": "means_kernel<float>"
    }

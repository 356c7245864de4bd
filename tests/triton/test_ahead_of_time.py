# SPDX-License-Identifier: Apache-2.0
"""Every Triton kernel compiles for the architectures we name, without spills, with tensor-core instructions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

SCRIPT = Path(__file__).with_name("ahead_of_time.py")
#: Kernels that multiply, and so must use tensor cores.
PRODUCTS = {"gram_panel_kernel", "partial_products_kernel", "weighted_product_kernel"}
OTHERS = {
    "centers_kernel", "without_offsets_kernel", "squared_norms_kernel", "gram_of_products_kernel",
    "mark_unresolved_kernel", "gram_weights_kernel", "subtract_means_kernel",
    "pair_sums_kernel", "column_sums_kernel", "hsic_values_kernel", "hsic_weights_kernel",
    "entries_kernel", "weights_kernel",
}  # fmt: skip
#: Of the copy engine, whose kernels compile for sm_90 and 100 alone.
OF_TMA = {"squared_norms_kernel", "tma_gram_kernel", "joined_kernel", "mirror_diagonal_kernel"}
INSTRUCTION = {80: "mma", 90: "wgmma", 100: "tcgen05"}
#: Shared memory of a block, bytes.
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}


def run_script(*arguments: object) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def compiled(capability: int, configs: int, *dtypes: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in run_script(capability, configs, *dtypes).splitlines()]


def test_a_bido_step_is_eight_launches() -> None:
    launches = json.loads(run_script("step"))
    assert len(launches["forward"]) <= 5
    assert len(launches["backward"]) <= 3


def test_a_larger_group_compiles_no_more_kernels() -> None:
    """Loops over the variables of a group are the device's: unrolled, 16 layers took half a minute."""
    of_few, of_many = json.loads(run_script("groups"))
    assert of_many == of_few


def check(facts: list[dict[str, object]], capability: int) -> None:
    assert {fact["kernel"] for fact in facts} == PRODUCTS | OTHERS
    for fact in facts:
        # Features whose width is no multiple of 16 load entry by entry and may spill; the rest must not.
        if fact["aligned"] and (capability >= 90 or fact["config"] == 0):
            assert (fact["stack"], fact["local"]) == (0, 0), fact
        assert int(str(fact["shared"])) <= SHARED[capability], fact
        if fact["kernel"] in PRODUCTS:
            assert int(str(fact[INSTRUCTION[capability]])) > 0, fact


@pytest.mark.parametrize(
    ("capability", "more"),
    [
        (90, ()),
        *(pytest.param(c, ("every",), marks=pytest.mark.slow) for c in (90, 100)),
    ],
)
def test_the_copy_engine_carries_operands(capability: int, more: tuple[str, ...]) -> None:
    """And no thread touches them: bulk copies, matrix instructions on shared memory, no spills."""
    facts = [json.loads(line) for line in run_script("tma", capability, *more).splitlines()]
    assert {fact["kernel"] for fact in facts} == OF_TMA
    products = [fact for fact in facts if fact["kernel"] == "tma_gram_kernel"]
    made = {(fact["dtype"], fact["precision"]) for fact in products}
    assert made >= {("torch.bfloat16", "highest")}
    assert not more or made >= {("torch.float32", "highest"), ("torch.float32", "high")}
    for fact in facts:
        assert (fact["stack"], fact["local"]) == (0, 0), fact
        assert fact["shared"] <= SHARED[capability], fact
    for fact in products:
        assert fact["bulk"] > 0, fact
        assert fact["UTMALDG"] > 0, fact
        assert fact[INSTRUCTION[capability]] > 0, fact
        assert capability != 90 or fact["HGMMA"] > 0, fact


def test_first_configurations_of_bfloat16() -> None:
    check(compiled(90, 1, "bfloat16"), 90)


@pytest.mark.slow
@pytest.mark.parametrize("capability", INSTRUCTION)
def test_first_configurations(capability: int) -> None:
    check(compiled(capability, 1), capability)


@pytest.mark.slow
@pytest.mark.parametrize("capability", INSTRUCTION)
def test_all_configurations(capability: int) -> None:
    check(compiled(capability, 4), capability)

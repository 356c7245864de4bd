# SPDX-License-Identifier: Apache-2.0
"""The backward of hsic on TMA compiles without spills, with bulk copies and matrix instructions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

SCRIPT = Path(__file__).with_name("ahead_of_time.py")
PASSES = {"centers_kernel", "transposed_kernel", "hsic_weights_kernel"}
INSTRUCTION = {90: "wgmma", 100: "tcgen05"}
#: Shared memory of a block, bytes, and registers of the product at most (170 with Triton 3.8).
SHARED, REGISTERS = 227 * 1024, 200


@pytest.mark.parametrize(
    ("capability", "more"),
    [(90, ()), *(pytest.param(c, ("every",), marks=pytest.mark.slow) for c in (90, 100))],
)
def test_the_copy_engine_carries_weights_and_features(
    capability: int, more: tuple[str, ...]
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "tma_hsic", str(capability), *more],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    facts = [json.loads(line) for line in done.stdout.splitlines()]
    products = [fact for fact in facts if fact["kernel"] == "tma_weighted_kernel"]
    others = {fact["kernel"] for fact in facts} - {"tma_weighted_kernel"}
    assert others - {"without_offsets_kernel"} == PASSES
    assert {fact["place"] for fact in products} == ({0, 1} if more else {0})
    for fact in facts:
        assert (fact["stack"], fact["local"]) == (0, 0), fact
        assert fact["shared"] <= SHARED, fact
    for fact in products:
        assert fact["UTMALDG"] > 0, fact
        assert fact["bulk"] > 0, fact
        assert fact[INSTRUCTION[capability]] > 0, fact
        assert capability != 90 or fact["HGMMA"] > 0, fact
        assert fact["registers"] <= REGISTERS, fact

# SPDX-License-Identifier: Apache-2.0
"""Arguments of all kinds: every refusal is a ValueError or TypeError that names the argument."""

from __future__ import annotations

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed")

from fuzz_ops import fuzz


def test_no_argument_breaks_an_op() -> None:
    outcomes = fuzz(400)
    for op in (
        "hsic",
        "nhsic",
        "coco",
        "cka",
        "BiDOLoss",
        "gaussian_gram",
        "double_center",
        "plan",
    ):
        assert outcomes[f"{op}: returned"] > 0
        assert outcomes[f"{op}: TypeError"] + outcomes[f"{op}: ValueError"] > 0


@pytest.mark.slow
def test_ten_thousand_calls() -> None:
    assert sum(fuzz(10_000).values()) >= 10_000

# SPDX-License-Identifier: Apache-2.0
"""Bandwidths in global batches: two ranks give what one process gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks import run_ranks
from sigma_ranks import MEASURES, learnt, learnt_by_ranks, median


@pytest.fixture(scope="module")
def of_ranks() -> list[dict[str, Any]]:
    return run_ranks(learnt_by_ranks, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("exchange", ["gather", "ring"])
@pytest.mark.parametrize("measure", MEASURES)
def test_learnt(
    measure: str, exchange: str, dtype: torch.dtype, of_ranks: list[dict[str, Any]]
) -> None:
    value, grads = learnt(measure, dtype)
    bound = 1e-8 if dtype == torch.float64 else 2e-5
    for results in of_ranks:
        found, found_grads = results[f"{measure} {exchange} {dtype}"]
        torch.testing.assert_close(found, value, rtol=bound, atol=0)
        torch.testing.assert_close(found_grads, grads, rtol=bound, atol=0)


def test_the_median_is_that_of_all_samples(of_ranks: list[dict[str, Any]]) -> None:
    for results in of_ranks:
        torch.testing.assert_close(results["median"], median(-1), rtol=1e-9, atol=0)


def test_all_ranks_learn_or_none(of_ranks: list[dict[str, Any]]) -> None:
    for results in of_ranks:
        assert "differ in settings" in results["differs"]

# SPDX-License-Identifier: Apache-2.0
"""Steps of several ranks against the same step in one process that has the whole batch."""

from __future__ import annotations

from typing import Any

import torch
from global_batch import COUNTS, single
from oracle import relative_error
from torch import Tensor


def joined(grads: list[Tensor]) -> Tensor:
    """All gradients as one vector."""
    return torch.cat([g.flatten() for g in grads])


def assert_equals_one_process(ranks: list[dict[str, Any]], measure: str) -> None:
    """Value and terms to 1e-9, gradients to 1e-6, float64, for every split of the rows; all ranks alike."""
    for counts in COUNTS[len(ranks)]:
        results = [rank[f"{measure} {counts}"] for rank in ranks]
        value, all_terms, grads = single(measure, sum(counts), torch.float64)
        for result in results:
            assert result["samples"] == sum(counts)
            assert torch.equal(result["value"], results[0]["value"])
            assert torch.equal(result["terms"], results[0]["terms"])
            assert relative_error(result["value"], value) < 1e-9
            assert relative_error(result["terms"], all_terms) < 1e-9
            assert relative_error(joined(result["grads"]), joined(grads)) < 1e-6

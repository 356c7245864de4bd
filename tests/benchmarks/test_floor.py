# SPDX-License-Identifier: Apache-2.0
"""The floor: which products are counted, and how measured times become one number."""

from __future__ import annotations

import pytest
import torch

from benchmarks.rivals.gemm_floor import floor_calls
from bido_ext.serving.floor import (
    combine,
    copy_floor,
    gram_floor,
    pair_floor,
    stack_floor,
    step_floor,
)


def test_pair_floor_is_one_forward_and_one_backward() -> None:
    """Two symmetric halves and one full product: exactly F."""
    seconds = {"floor forward 64x16": 3.0, "floor backward 64x16": 5.0}
    assert combine(pair_floor(64, 16), seconds) == 3.0 + 5.0
    assert sum(p.flops for p in pair_floor(64, 16)) == 2 * (2 * 64 * 64 * 16)


def test_gram_floor_is_half_forward_and_one_backward() -> None:
    seconds = {"floor forward 64x16": 3.0, "floor backward 64x16": 5.0}
    assert combine(gram_floor(64, 16), seconds) == 0.5 * 3.0 + 5.0


def test_step_floor_counts_x_once_and_every_layer() -> None:
    parts = step_floor(8, 100, [40, 20, 40])
    seconds = {
        "floor forward 8x100": 10.0,
        "floor forward 8x40": 4.0,
        "floor backward 8x40": 6.0,
        "floor forward 8x20": 2.0,
        "floor backward 8x20": 3.0,
    }
    assert combine(parts, seconds) == 5 + 2 * (2 + 6) + (1 + 3)
    assert set(floor_calls(parts, torch.float32, "cpu")) == set(seconds)


def test_stack_floor_is_the_sum_of_gram_floors() -> None:
    assert stack_floor(8, (5, 3)) == gram_floor(8, 5) + gram_floor(8, 3)


def test_cubic_work_is_apart() -> None:
    parts = pair_floor(8, 4, cubic=2.5)
    seconds = {"floor forward 8x4": 1.0, "floor backward 8x4": 1.0, "floor cubic 8": 2.0}
    assert combine(parts, seconds) == 2.0
    assert combine(parts, seconds, cubic=True) == 7.0


def test_calls_have_the_shapes_of_their_parts() -> None:
    parts = (*pair_floor(6, 3, cubic=1.0), *copy_floor(6))
    shapes = {
        name: tuple(call().shape)  # type: ignore[attr-defined]
        for name, call in floor_calls(parts, torch.float64, "cpu").items()
    }
    assert shapes == {
        "floor forward 6x3": (6, 6),
        "floor backward 6x3": (6, 3),
        "floor cubic 6": (6, 6),
        "floor copy 6": (6, 6),
    }


@pytest.mark.parametrize("n", [1, 5])
def test_copy_has_no_flops(n: int) -> None:
    assert sum(part.flops for part in copy_floor(n)) == 0

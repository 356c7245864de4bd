# SPDX-License-Identifier: Apache-2.0
"""The choice of a block shape: only what runs and writes the right result, and only the fastest of those."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

launch = pytest.importorskip("bido_ext.triton_kernels.launch")

SAFE, WRONG, BROKEN, FAST, LAZY = (launch.Config(m, 64, 32, 4, 3) for m in (16, 32, 64, 128, 256))
TIMES = {SAFE: 4.0, WRONG: 1.0, BROKEN: 0.5, FAST: 2.0, LAZY: 0.1}


def choose(candidates: list[object]) -> int:
    out = torch.zeros(600, 7)
    right = torch.randn(600, 7)
    ran: list[object] = []

    def run(config: object) -> None:
        ran.append(config)
        if config == BROKEN:
            raise ValueError("does not compile")
        if config != LAZY:  # which writes nothing
            out.copy_(right)
        if config == WRONG:
            out[-1] += 1
        if config == FAST:
            out.mul_(1 + 1e-6)  # another order of sums

    def milliseconds(call: Callable[[], None]) -> float:
        call()
        return TIMES[ran[-1]]  # type: ignore[index]

    place: int = launch.fastest(candidates, run, out, milliseconds)
    return place


def test_the_fastest_right_one_is_chosen() -> None:
    assert choose([SAFE, WRONG, BROKEN, FAST, LAZY]) == 3
    assert choose([SAFE, WRONG, LAZY]) == 0


def test_a_safe_one_that_does_not_run_is_passed_over() -> None:
    assert choose([BROKEN, FAST]) == 1


def test_none_that_runs_is_an_error_with_the_reasons() -> None:
    with pytest.raises(RuntimeError, match="No configuration runs.*does not compile"):
        choose([BROKEN])


def test_what_is_not_finite_must_be_so_in_both() -> None:
    wanted = torch.tensor([1.0, float("nan")])
    assert launch._same(wanted.clone(), wanted)
    assert not launch._same(torch.tensor([float("nan"), 1.0]), wanted)
    assert not launch._same(torch.tensor([1.0, 1.0]), wanted)

# SPDX-License-Identifier: Apache-2.0
"""The cost of the n x n algebra: docs/scaling.md has the counted table, and the counts are those of the formulas."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.algebra_model import FORMS, Counting, _cell, algebra_of, table
from bido_ext.reference.kernel_entries import LINEAR

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "scaling.md"
#: Of one matrix in the forward, in n^3: factor n^3/3, solve n^3, product 2 n^3; a sweep has a product alone.
FORWARD = {"composed": 10 / 3, "sweep": 2.0, "refined": 10 / 3 + 2 + 3 * 2}
LAYERS = 3


#: Launches of a cell that is counted in every run; the larger ones take as long as all others.
MOST = 1100


def test_the_table_is_that_of_the_count() -> None:
    start = "| form | host waits |"
    written = start + DOCUMENT.read_text().split(start, 1)[1].split("\n\n", 1)[0]
    head, _, *rows = (
        [cell.strip() for cell in row.split("|")[1:-1]] for row in written.split("\n")
    )
    sizes = [int(name.removeprefix("n = ")) for name in head[2:]]
    counted = 0
    for (op, form, options, words), row in zip(FORMS, rows, strict=True):
        assert row[0] == words
        costs = []
        for n, cell in zip(sizes, row[2:], strict=True):
            if cell == "–" or int(cell.split(" / ")[0]) <= MOST:
                costs.append(algebra_of(op, form, n, **options))
                assert _cell(costs[-1]) == cell, (words, n)
        counted += len(costs)
        assert max((cost.waits for cost in costs if cost is not None), default=0) == int(row[1])
    assert counted >= 27


@pytest.mark.slow
def test_the_whole_table_is_that_of_the_count() -> None:
    assert table() in DOCUMENT.read_text()


@pytest.mark.parametrize("form", FORWARD)
def test_flops_of_nhsic_are_those_of_the_formula(form: str) -> None:
    n = 8192
    cost = algebra_of("nhsic", form, n)
    assert cost is not None
    # All layers and the input; P T P of each layer in the backward.
    formula = n**3 * (FORWARD[form] * (LAYERS + 1) + 4 * LAYERS)
    assert cost.flops == pytest.approx(formula, rel=0.05)


# Each form takes one of the two.
@pytest.mark.parametrize(
    ("n", "other"), [(1024, 4096), pytest.param(4096, 256, marks=pytest.mark.slow)]
)
def test_only_what_was_before_waits_for_the_device(n: int, other: int) -> None:
    for op, form, options, words in FORMS:
        cost = algebra_of(op, form, n, **options) or algebra_of(op, form, other, **options)
        assert cost is not None
        assert (cost.waits > 0) == words.endswith("(before)"), words


def test_the_calls_of_nhsic_do_not_grow_with_the_batch_but_for_the_sweep() -> None:
    few, many = (algebra_of("nhsic", "composed", n) for n in (129, 1024))
    assert few is not None
    assert many is not None
    assert few.launches == many.launches
    tiles = [algebra_of("nhsic", "sweep", n) for n in (128, 256, 512)]
    launches = [cost.launches for cost in tiles if cost is not None]
    assert launches[2] - launches[1] == 2 * (launches[1] - launches[0])


def test_a_linear_kernel_costs_n_d_and_not_n_cubed() -> None:
    narrow, wide = (algebra_of("nhsic", "composed", 4096, kind=LINEAR, width=d) for d in (64, 512))
    gram = algebra_of("nhsic", "composed", 4096)
    assert narrow is not None
    assert wide is not None
    assert gram is not None
    assert narrow.flops < wide.flops < 0.2 * gram.flops


def test_the_count_of_a_known_calculation() -> None:
    a, b = torch.rand(3, 5), torch.rand(5, 7)
    with Counting() as counting:
        c = (a @ b).view(-1).add(1)
        torch.linalg.cholesky_ex(torch.eye(6))
    found = counting.found
    assert c.shape == (21,)
    # Product and sum; the unit matrix, filled in a call of its own, and its factor.
    assert found.launches in (4, 5, 6)
    assert found.flops == 2 * 3 * 5 * 7 + 6**3 / 3
    assert found.waits == 0
    with Counting() as counting:
        a.sum().item()
    assert counting.found.waits == 1

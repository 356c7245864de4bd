# SPDX-License-Identifier: Apache-2.0
"""docs/scaling.md shows the tables of the cost model as it is."""

from __future__ import annotations

from pathlib import Path

from benchmarks.scaling_model import (
    SETUPS,
    cost_of_step,
    table,
    table_of_exchanges,
    table_of_groups,
)

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"


def test_tables_are_those_of_the_model() -> None:
    text = DOCUMENT.read_text()
    assert table() in text
    assert table_of_groups() in text
    assert table_of_exchanges() in text


def test_two_ranks_do_between_two_thirds_and_all_of_the_products_of_one() -> None:
    for setup in SETUPS:
        one = cost_of_step(4096, setup.dims, "hsic")
        two = cost_of_step(4096, setup.dims, "hsic", 2)
        four = cost_of_step(4096, setup.dims, "hsic", 4)
        assert 0.66 < two.product_flops / one.product_flops <= 1
        assert four.product_flops == two.product_flops / 2
        assert one.exchange.bytes == one.exchange.messages == 0

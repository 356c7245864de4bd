# SPDX-License-Identifier: Apache-2.0
"""The page on the heavy product shows what its model says."""

from __future__ import annotations

from pathlib import Path

from benchmarks.product_model import DESIGNS, seconds, share_of_peak, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "heavy_product.md"


def test_the_page_has_the_table_of_the_model() -> None:
    assert table() in PAGE.read_text()


def test_the_order_that_the_page_draws_its_conclusion_from() -> None:
    now, tma, *_, library = DESIGNS
    assert seconds(tma, 8192, 2048) < seconds(now, 8192, 2048) < seconds(library, 8192, 2048)
    assert seconds(now, 1024, 12288) < seconds(tma, 1024, 12288)
    assert share_of_peak(now) < share_of_peak(tma) <= 1

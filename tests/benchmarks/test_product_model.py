# SPDX-License-Identifier: Apache-2.0
"""The page on the heavy product shows what its model says."""

from __future__ import annotations

from pathlib import Path

from benchmarks.product_model import (
    DESIGNS,
    backward_table,
    seconds,
    seconds_backward,
    share_of_peak,
    table,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "heavy_product.md"


def test_the_page_has_the_tables_of_the_model() -> None:
    page = PAGE.read_text()
    assert table() in page
    assert backward_table() in page


def test_the_order_that_the_page_draws_its_conclusion_from() -> None:
    now, tma, *_, library = DESIGNS
    assert seconds(tma, 8192, 2048) < seconds(now, 8192, 2048) < seconds(library, 8192, 2048)
    assert seconds(now, 1024, 12288) < seconds(tma, 1024, 12288)
    assert share_of_peak(now) < share_of_peak(tma) <= 1


def test_the_engine_pays_in_the_backward_of_many_samples() -> None:
    now, built = DESIGNS[0], DESIGNS[3]
    for n, d in ((4096, 2048), (4096, 12288), (8192, 2048)):
        assert 0.75 < seconds_backward(built, n, d) / seconds_backward(now, n, d) < 0.82
    assert seconds_backward(now, 1024, 12288) < seconds_backward(built, 1024, 12288)

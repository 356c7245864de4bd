# SPDX-License-Identifier: Apache-2.0
"""Tables of a group: made once, and kept as long as a graph that recorded them may be replayed."""

from __future__ import annotations

import pytest
import torch

CPU, ROWS = torch.device("cpu"), [(1, 2), (3, 4)]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    table = pytest.importorskip("bido_ext.triton_kernels.table")
    monkeypatch.setattr(table, "_kept", {})
    monkeypatch.setattr(table, "_recorded", {})
    return table


def capture(monkeypatch: pytest.MonkeyPatch, on: bool) -> torch.device:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: on)
    return torch.device("cuda")


def test_a_table_is_made_once(module) -> None:  # type: ignore[no-untyped-def]
    made = module.table(ROWS, CPU)
    assert made.tolist() == [[1, 2], [3, 4]]
    assert module.table(ROWS, CPU) is made


def test_what_a_graph_recorded_outlives_the_others(  # type: ignore[no-untyped-def]
    module, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = capture(monkeypatch, on=True)
    kept = torch.tensor(ROWS, dtype=torch.int32)
    module._kept[tuple(ROWS), device] = kept
    assert module.table(ROWS, device) is kept
    monkeypatch.setattr(module, "MOST_KEPT", 1)
    module.table([(5, 6)], CPU)
    assert not any(t is kept for t in module._kept.values())
    assert module.table(ROWS, device) is kept

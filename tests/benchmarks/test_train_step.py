# SPDX-License-Identifier: Apache-2.0
"""The cost of BiDO in a training step: taps of the stated widths, a gated and complete record."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import bido_step, train_step
from benchmarks.run import text_table
from bido_ext import FeatureTaps


def test_record_compares_with_the_plain_step(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Tanh(), nn.Conv2d(4, 4, 2, 2))
    model = nn.Sequential(hidden, nn.Flatten(), nn.Linear(64, 3))
    monkeypatch.setattr(train_step, "vgg16", lambda num_classes: model)
    monkeypatch.setattr(train_step, "TAPS", ("0.1", "0.2"))
    before = [p.clone() for p in model.parameters()]
    threads = torch.get_num_threads()
    record = train_step.run_train_step(
        "hsic", 8, [], threads, rounds=1, minimum_rounds=1, num_classes=3
    )
    (own,) = record["rows"]
    assert own["refusal"] is None
    assert own["times_floor"] == pytest.approx(own["median_ms"] / record["floor"]["ms"])
    assert record["control"]["what"] == train_step.CONTROL
    assert record["control"]["paired_ratio"] > 0
    assert f"x {train_step.PLAIN}" in text_table(record)
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.equal(old, new), "the weights must not move between the rounds"


def test_taps_have_the_widths_of_the_step_benchmark() -> None:
    pytest.importorskip("torchvision")
    with torch.device("meta"):  # shapes only
        model = train_step.vgg16(3).eval()
        taps = FeatureTaps(model, train_step.TAPS)
        model(torch.empty(1, 3, 64, 64))
    widths = [z.flatten(1).shape[1] for z in taps.features.values()]
    assert (3 * 64 * 64, *widths) == bido_step.DIMS

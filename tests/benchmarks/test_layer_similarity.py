# SPDX-License-Identifier: Apache-2.0
"""The benchmark of LayerSimilarity: a complete record, a gate, rivals that compute the same thing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import layer_similarity, layer_similarity_rivals
from benchmarks.results import load


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(stem: str) -> nn.Module:
        blocks = [nn.Conv2d(3, 4, 5, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 3)]
        return nn.Sequential(*blocks)

    monkeypatch.setattr(layer_similarity_rivals, "resnet18", small)


def test_rivals_compute_the_same_thing() -> None:
    models = layer_similarity.Models("imagenet", 16, 8, "cpu")
    with torch.no_grad():
        wanted = layer_similarity.truth(models, models.batches)
        for run in (
            layer_similarity.own,
            layer_similarity_rivals.pair_by_pair,
            layer_similarity_rivals.gram_once,
        ):
            found = run(models, models.batches).double()
            torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)


def test_records_are_complete_and_saved(tmp_path: Path) -> None:
    threads, path = torch.get_num_threads(), tmp_path / "a.json"
    arguments = ["--n", "16", "--batch-size", "8", "--rounds", "1", "--json", str(path)]
    arguments += ["--threads", str(threads)]
    assert layer_similarity.main(arguments) == 0
    assert layer_similarity.main([*arguments, "--sums"]) == 0
    whole, sums = sorted(load(path), key=lambda record: record["spec"]["name"])
    own, *rivals = whole["rows"]
    assert own["name"] == "bido_ext"
    assert own["value_error"] < 1e-5
    assert {row["name"] for row in rivals} >= {"pair by pair", "each Gram matrix once"}
    assert all(row["median_ms"] > 0 and row["times_own"] > 0 for row in rivals)
    assert whole["machine"]["command"]
    assert sums["floor"]["what"] == "Gram matrices alone"


def test_seventeen_convolutions_of_resnet18(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")
    monkeypatch.undo()
    names = layer_similarity_rivals.path_convolutions(layer_similarity_rivals.resnet18("cifar"))
    assert len(names) == 17

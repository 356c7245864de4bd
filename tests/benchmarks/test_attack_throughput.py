# SPDX-License-Identifier: Apache-2.0
"""The throughput benchmark: the published loop is the same search, the record is complete."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import attack_throughput
from benchmarks.results import load, save


@pytest.mark.parametrize("attack", ["gmi", "ked"])
def test_record_compares_with_the_published_loop(attack: str, tmp_path: Path) -> None:
    record = attack_throughput.run(
        attack, "mnist", restarts=2, steps=2, batch_size=10, threads=1, rounds=1, width=0.1,
        minimum_rounds=1,
    )  # fmt: skip
    by_name = {row["name"]: row for row in record["rows"]}
    assert list(by_name) == ["bido_ext", "published loop", "published loop, weights frozen"]
    assert by_name["published loop"]["times_published"] == 1
    own = by_name["bido_ext"]
    assert own["reconstructions_per_s"] == pytest.approx(
        own["steps_of_a_row_per_s"] / record["spec"]["published_steps"]
    )
    save(tmp_path / "a.json", "a", [record])
    assert load(tmp_path / "a.json") == [record]
    assert "reconstructions/h" in attack_throughput.text(record)


def test_another_path_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attack_throughput, "published_gmi", lambda *_, **__: torch.zeros(2, 5, 100))
    with pytest.raises(attack_throughput.WrongPathError, match="latents differ"):
        attack_throughput.run(
            "gmi", "mnist", restarts=2, steps=1, batch_size=10, threads=1, rounds=1, width=0.1,
            minimum_rounds=1,
        )  # fmt: skip

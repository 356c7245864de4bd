# SPDX-License-Identifier: Apache-2.0
"""The comparison of implementations runs where there is no GPU too, with what is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import implementations
from benchmarks.results import load
from bido_ext.serving import implementations as serving
from bido_ext.serving.row import checked_ops


def test_every_family_is_timed_and_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "implementations.json"
    arguments = [
        "--device",
        "cpu",
        "--smoke",
        "--rounds",
        "2",
        "--dtypes",
        "float32",
        "--json",
        str(path),
    ]
    found = serving.functions_of

    def only_reference(op: str, implementation: str) -> object:
        return found(op, implementation) if implementation == "reference" else {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "functions_of", only_reference)
        assert implementations.main(arguments) == 0
    records = load(path)
    assert {r["spec"]["name"] for r in records} == {f"implementations_{op}" for op in checked_ops()}
    assert all(
        r["rows"][0]["name"] == "reference" and r["rows"][0]["median_ms"] > 0 for r in records
    )
    assert "nhsic  n = 24" in capsys.readouterr().out


def test_a_wrong_implementation_is_refused_and_not_timed() -> None:
    step = implementations.make_step(24, (40, 30), torch.float32, "cpu")
    found = serving.functions_of

    def one_wrong(op: str, implementation: str) -> object:
        right = found(op, "reference")
        if implementation == "reference":
            return right
        return {"double_center": lambda K: K} if implementation == "cuda" else {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "functions_of", one_wrong)
        record = implementations.run_family("double_center", step, torch.float32, "cpu", 2)
    (refused,) = [row for row in record["rows"] if row["name"] == "cuda"]
    assert "off by" in refused["refusal"]
    assert "median_ms" not in refused


def test_a_capture_that_fails_leaves_the_eager_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU plays a device whose graphs fail, then one whose replays take turns."""
    step = implementations.make_step(24, (40, 30), torch.float32, "cpu")
    found = serving.functions_of

    def refuses(call: object) -> object:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    def reference_as_cuda(op: str, implementation: str) -> object:
        return found(op, "reference") if implementation == "cuda" else {}

    monkeypatch.setattr(serving, "functions_of", reference_as_cuda)
    monkeypatch.setattr(implementations, "self_check", lambda *_, **__: None)
    monkeypatch.setattr(implementations, "how_many", lambda size, device: 6)
    monkeypatch.setattr(implementations, "told", lambda count, size, device: count)
    monkeypatch.setattr(implementations, "is_cuda", lambda device: True)
    for capture, graph in ((refuses, None), (lambda call: call, 4)):
        monkeypatch.setattr(implementations, "as_graph", capture)
        record = implementations.run_family("double_center", step, torch.float32, "cpu", 2)
        rows = {row["name"]: row for row in record["rows"]}
        assert rows["cuda"]["median_ms"] > 0
        assert rows["cuda"]["input_sets"] == 6
        if graph is None:
            assert rows["cuda, graph"]["refusal"] == "not captured: operation not permitted"
        else:
            assert rows["cuda, graph"]["input_sets"] == graph

# SPDX-License-Identifier: Apache-2.0
"""Inputs take turns where a cache would flatter, everyone takes the next, and records say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import implementations, input_sets, run
from benchmarks.input_sets import Rotation, bytes_of, copy_of, how_many, rotation_of, told
from benchmarks.problem import Problem, make_pair, make_step
from benchmarks.results import load
from benchmarks.rivals.gemm_floor import floor_calls
from bido_ext.serving.floor import pair_floor


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> int:
    """The CPU plays a device with a small cache."""
    size = 10_000
    monkeypatch.setattr(input_sets, "cache_bytes", lambda device: size)
    return size


def test_everyone_takes_the_next_set() -> None:
    taken: list[str] = []
    rotation = Rotation("abc")
    one, other = (rotation.call(lambda s, who=who: taken.append(who + s)) for who in "12")
    for call in (one, other, one, one, other):
        call()
    assert taken == ["1a", "2b", "1c", "1a", "2b"]


def test_a_cpu_has_one_set() -> None:
    assert how_many(8, "cpu") == 1
    assert told(1, 8, "cpu") == {"count": 1, "bytes": 8, "l2_bytes": None, "beyond_l2": None}


def test_sets_together_are_larger_than_the_cache(cache: int) -> None:
    assert [how_many(size, "cuda") for size in (1_000, 9_999, 20_000, 10**9)] == [20, 3, 1, 1]
    assert told(20, 1_000, "cuda")["beyond_l2"] is True
    assert how_many(1, "cuda") == input_sets.MOST
    assert told(input_sets.MOST, 1, "cuda")["beyond_l2"] is False


@pytest.mark.parametrize("problem", [make_pair(6, 50), make_step(6, (9, 50, 8), 3)])
def test_copies_hold_the_same_numbers_elsewhere(problem: Problem, cache: int) -> None:
    problem = problem.to(torch.float32)
    rotation = rotation_of(problem, "cpu")
    assert len(rotation.sets) == how_many(bytes_of(problem), "cpu") > 1
    addresses = {tuple(t.data_ptr() for t in (s.x, *s.layers)) for s in rotation.sets}
    assert len(addresses) == len(rotation.sets)
    for s in rotation.sets:
        assert torch.equal(s.x, problem.x)
        assert all(map(torch.equal, s.layers, problem.layers))
        assert all(z.requires_grad and z.is_leaf for z in s.layers)
        assert s.labels is None or torch.equal(s.labels, problem.labels)


def test_a_matrix_that_is_its_own_layer_is_counted_once() -> None:
    K = torch.zeros(4, 4)
    assert bytes_of(Problem(K, (K,))) == 64
    assert torch.equal(copy_of(Problem(K, (K,), cotangent=K)).cotangent, K)


def test_records_of_the_runner_say_so(tmp_path: Path, cache: int) -> None:
    path = tmp_path / "hsic.json"
    options = ["--smoke", "--op", "hsic", "--threads", "1", "--no-memory", "--json", str(path)]
    assert run.main([*options, "--rivals", "hand_backward"]) == 0
    (record,) = load(path)
    n, (d,) = record["spec"]["n"], record["spec"]["dims"]
    size = 2 * 4 * n * d
    count = -(-2 * cache // size)
    assert count > 1
    assert record["input_sets"] == {
        "count": count, "bytes": count * size, "l2_bytes": cache, "beyond_l2": True,
    }  # fmt: skip
    assert record["clock"] == "host clock"


def test_the_floor_takes_turns_too(cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    found = torch.mm

    def mm(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        seen.append(a.data_ptr())
        return found(a, b, out=out)

    monkeypatch.setattr(torch, "mm", mm)
    call = floor_calls(pair_floor(8, 100), torch.float32, "cpu")["floor forward 8x100"]
    for _ in range(14):
        call()
    assert len(set(seen)) == 7  # 3,200 bytes each


def test_records_of_implementations_say_so(cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implementations, "implementations_of", lambda op: ["reference"])
    step = implementations.make_step(24, (40, 30), torch.float32, "cpu")
    record = implementations.run_family("gaussian_gram", step, torch.float32, "cpu", 2)
    size = 4 * (24 * 30 + 24 * 24)
    for row in record["rows"]:
        if "median_ms" in row:
            assert row["input_sets"] == told(-(-2 * cache // size), size, "cuda")
    assert record["clock"] == "host clock"

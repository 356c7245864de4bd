# SPDX-License-Identifier: Apache-2.0
"""Interleaved timing: everyone has a turn in every round, too few rounds are refused."""

from __future__ import annotations

import contextlib
import time

import pytest
import torch

from bido_ext.serving.measure import (
    MIN_ROUNDS,
    Timing,
    clock_of,
    interleaved,
    paired_ratio,
    quantile,
)


def test_every_call_has_its_turn_in_every_round() -> None:
    turns: list[str] = []

    def call(name: str, seconds: float) -> None:
        turns.append(name)
        time.sleep(seconds)

    timings = interleaved(
        {"slow": lambda: call("slow", 4e-3), "fast": lambda: call("fast", 1e-3)},
        min_sample_s=1e-4,
    )
    assert 1 <= timings["fast"].median * 1e3 < timings["slow"].median * 1e3
    assert timings["slow"].q20 <= timings["slow"].median <= timings["slow"].q80
    rounds = turns[-2 * MIN_ROUNDS :]
    pairs = [set(rounds[i : i + 2]) for i in range(0, len(rounds), 2)]
    assert pairs == [{"slow", "fast"}] * MIN_ROUNDS
    assert len({tuple(rounds[i : i + 2]) for i in range(0, len(rounds), 2)}) == 2, "never shuffled"


def test_short_calls_are_repeated_within_a_sample() -> None:
    timing = interleaved({"nothing": lambda: None}, min_sample_s=1e-4)["nothing"]
    assert timing.repeats > 1
    assert timing.median < 1e-4


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds must be at least 7, got 6"):
        interleaved({"nothing": lambda: None}, 6)


def test_quantiles_interpolate() -> None:
    values = [5.0, 1.0, 3.0, 2.0, 4.0, 6.0]
    assert quantile(values, 0.5) == 3.5
    assert quantile(values, 0.2) == 2.0
    assert quantile([7.0], 0.8) == 7.0


def test_paired_ratio_cancels_what_slows_a_whole_round() -> None:
    plain = [1.0, 5.0, 1.0, 1.2, 9.0, 1.0, 1.0, 2.0, 1.0]
    own = Timing(1, 1, 1, 9, 1, tuple(1.02 * p for p in plain))
    ratio, low, high = paired_ratio(own, Timing(1, 1, 1, 9, 1, tuple(plain)))
    assert ratio == pytest.approx(1.02)
    assert low == pytest.approx(1.02) == high


def test_a_cuda_device_is_timed_by_its_own_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in device whose clock runs a thousand times slower than the host's."""
    log: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            log.append("event")
            self.at = device_ms[0]

        def elapsed_time(self, end: Event) -> float:
            return end.at - self.at

    device_ms = [0.0]

    def call() -> None:
        log.append("call")
        device_ms[0] += 5.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("wait"))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    timing = interleaved({"it": call}, device="cuda:1")["it"]
    assert timing.median == pytest.approx(5e-3)
    assert timing.repeats == 1
    assert log[:5] == ["wait", "event", "call", "event", "wait"]
    assert [clock_of(device) for device in ("cpu", "cuda:1")] == ["host clock", "CUDA events"]

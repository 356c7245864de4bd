# SPDX-License-Identifier: Apache-2.0
"""The choice among implementations: the fastest right one, kept on disk, never timed where it must not be."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch
from preloaded import run_python
from serving.conftest import CPU, Functions, StandIns

from bido_ext import _disk_cache
from bido_ext.ops.tune import tune
from bido_ext.serving import choose, libraries, on_cpu, report, verdicts
from bido_ext.serving.implementations import functions_of
from bido_ext.serving.measure import times
from bido_ext.serving.row import CONTRACTS, ROWS, default_of, named

Make = Callable[[], Functions]
WRONG: Functions = {"double_center": lambda K: K}


def test_the_fastest_right_one_serves(stand_ins: StandIns, right: Make) -> None:
    stand_ins.add("triton", 3.0, right())
    fastest = stand_ins.add("cuda", 1.0, right())
    stand_ins.add("composed", 2.0, right())
    assert stand_ins.chosen() is fastest["double_center"]


def test_a_wrong_one_never_serves_however_fast(stand_ins: StandIns, right: Make) -> None:
    stand_ins.add("triton", 0.001, WRONG)
    slow = stand_ins.add("composed", 9.0, right())
    with pytest.warns(RuntimeWarning, match="bido_ext::double_center: the triton implementation"):
        assert stand_ins.chosen() is slow["double_center"]


def test_where_all_are_wrong_the_reference_serves(stand_ins: StandIns) -> None:
    stand_ins.add("triton", 0.001, WRONG)
    with pytest.warns(RuntimeWarning, match="is not used"):
        assert stand_ins.chosen() is default_of("double_center")


def test_a_verdict_survives_a_restart(stand_ins: StandIns, right: Make) -> None:
    stand_ins.add("triton", 3.0, right())
    stand_ins.add("cuda", 1.0, right())
    stand_ins.chosen()
    choose.forget()
    stand_ins.milliseconds = {"triton": 1.0, "cuda": 3.0}  # nobody asks again
    assert stand_ins.chosen() is stand_ins.there["cuda"]["double_center"]
    assert stand_ins.timed == 1


def test_a_verdict_dies_with_a_version(
    stand_ins: StandIns, right: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins.add("triton", 3.0, right())
    stand_ins.add("cuda", 1.0, right())
    stand_ins.chosen()
    for what, value in ((libraries, "digest"), (verdicts, "_driver")):
        monkeypatch.setattr(what, value, lambda: "another")
        choose.forget()
        stand_ins.chosen()
    assert stand_ins.timed == 3


def test_shapes_up_to_a_power_of_two_share_a_verdict(stand_ins: StandIns, right: Make) -> None:
    stand_ins.add("triton", 3.0, right())
    stand_ins.add("cuda", 1.0, right())
    for n in (9, 12, 16):
        stand_ins.chosen(n)
    assert stand_ins.timed == 1
    stand_ins.chosen(17)
    assert stand_ins.timed == 2


def test_another_set_of_candidates_is_another_question(stand_ins: StandIns, right: Make) -> None:
    stand_ins.add("triton", 3.0, right())
    stand_ins.add("composed", 2.0, right())
    assert stand_ins.chosen() is stand_ins.there["composed"]["double_center"]
    fastest = stand_ins.add("cuda", 1.0, right())
    assert stand_ins.chosen() is fastest["double_center"]


@pytest.mark.parametrize("why", ["capture", "compile", "deterministic", "BIDO_EXT_TUNE=0"])
def test_nothing_is_timed_where_it_must_not_be(
    why: str, stand_ins: StandIns, right: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stand_ins.add("triton", 3.0, right())
    faster = stand_ins.add("cuda", 1.0, right())
    if why == "capture":
        # Checked before: a capture is preceded by a call of the same op elsewhere.
        for name, functions in stand_ins.there.items():
            assert verdicts.passes("double_center", name, functions, torch.float32, CPU)
        monkeypatch.setattr(verdicts, "capturing", lambda device: True)
    elif why == "compile":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    elif why == "deterministic":
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    else:
        monkeypatch.setenv("BIDO_EXT_TUNE", "0")
    assert stand_ins.chosen() is first["double_center"]
    assert stand_ins.timed == 0
    # A verdict that is there serves, in a capture too.
    monkeypatch.setattr(choose, "may_measure", lambda device: True)
    assert stand_ins.chosen() is faster["double_center"]
    monkeypatch.setattr(choose, "may_measure", lambda device: False)
    choose.forget()
    assert stand_ins.chosen() is faster["double_center"]


def test_what_was_never_checked_does_not_serve_in_a_capture(
    stand_ins: StandIns, right: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins.add("triton", 3.0, right())
    monkeypatch.setattr(verdicts, "capturing", lambda device: True)
    with pytest.warns(UserWarning, match="cannot be checked during a graph capture"):
        assert stand_ins.chosen() is default_of("double_center")


def test_a_backward_alone_times_nothing(stand_ins: StandIns, right: Make) -> None:
    names = ROWS["hsic"].functions
    for name in ("triton", "cuda"):
        stand_ins.add(name, 1.0, {f: default_of(f) for f in names})
    x = [torch.rand(6, 3), torch.rand(6, 2)]
    parameters = torch.ones(2, dtype=torch.float64)
    group = (x, parameters, [0, 0], [0], [1], False, 6, -1)
    values, sums, tiles = default_of("hsic")(*group)
    args = (values, x, parameters, sums, tiles, [0, 0], [0], [1], False, 6, [0])
    choose.choose("hsic_backward", named("hsic_backward", args), CPU)
    assert stand_ins.timed == 0
    choose.choose("hsic", named("hsic", group), CPU)
    choose.choose("hsic_backward", named("hsic_backward", args), CPU)
    assert stand_ins.timed == 1


def test_forward_and_backward_are_served_by_the_same(stand_ins: StandIns) -> None:
    names = ROWS["gaussian_gram"].functions
    slow, fast = ({f: lambda *a, f=f: default_of(f)(*a) for f in names} for _ in range(2))
    stand_ins.add("triton", 2.0, slow)
    stand_ins.add("cuda", 1.0, fast)
    x, gamma = torch.rand(7, 3), torch.tensor(0.1, dtype=torch.float64)
    forward = choose.choose("gaussian_gram", named("gaussian_gram", (x, gamma, True)), CPU)
    args = (torch.rand(7, 7), torch.rand(7, 7), x, gamma, True)
    backward = choose.choose("gaussian_gram_backward", named("gaussian_gram_backward", args), CPU)
    assert forward is fast["gaussian_gram"]
    assert backward is fast["gaussian_gram_backward"]


def test_a_candidate_that_runs_out_of_memory_is_left_out() -> None:
    def too_large() -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    found = times({"large": too_large, "small": lambda: None}, CPU)
    assert found["large"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate"
    assert choose.fastest(found) == "small"


def test_one_that_fails_in_a_later_round_is_left_out() -> None:
    calls: list[int] = []

    def twice() -> None:
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("device is busy")

    found = times({"twice": twice, "always": lambda: None}, CPU)
    assert found["twice"] == "RuntimeError: device is busy"
    assert choose.fastest(found) == "always"


KILLS = """
import os, sys, torch
from bido_ext.serving import choose
from bido_ext.serving.row import CONTRACTS, ROWS, default_of, named

def there(op, implementation):
    # Right in the check, whose matrices have other sizes, and deadly on the user's.
    right = default_of("double_center")
    kills = lambda K: os._exit(9) if len(K) == 9 else right(K)
    return {"triton": {"double_center": kills}, "cuda": {"double_center": right}}.get(implementation, {})

choose.functions_of = there
arguments = named("double_center", [torch.rand(9, 9)])
chosen = choose.choose("double_center", arguments, torch.device("cpu"))
print("lives", chosen is default_of("double_center"))
"""


def test_one_that_kills_the_process_when_timed_is_remembered() -> None:
    """For shapes that share the verdict; the check had passed."""
    runs = [run_python(KILLS) for _ in range(2)]
    assert runs[0].returncode == 9, runs[0].stderr
    assert runs[1].stdout.strip() == "lives True", runs[1].stderr


def test_one_that_breaks_the_device_when_timed_is_named_and_remembered(
    stand_ins: StandIns, right: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks: list[int] = []
    function = default_of("double_center")

    def faulty(K: torch.Tensor) -> torch.Tensor:
        if len(K) == 9:
            breaks.append(1)
        return function(K)

    stand_ins.add("triton", 1.0, {"double_center": faulty})
    stand_ins.add("cuda", 2.0, right())
    with monkeypatch.context() as patch:
        patch.setattr(verdicts, "lives", lambda device: not breaks)
        with pytest.raises(RuntimeError, match="the triton implementation broke the device when"):
            stand_ins.chosen()
    choose.forget()  # the next process
    assert stand_ins.chosen() is stand_ins.there["cuda"]["double_center"]
    assert breaks == [1]


def test_measuring_keeps_to_its_budget() -> None:
    begun = time.perf_counter()
    found = times({"a": lambda: time.sleep(0.02), "b": lambda: time.sleep(0.01)}, CPU)
    # One run of each before anything counts, and rounds of both until 50 ms are over.
    assert time.perf_counter() - begun < 0.5
    assert found["b"] < found["a"]


TWO = """
import sys
from bido_ext import _disk_cache
for i in range(200):
    _disk_cache.update("measurements", f"key {i % 5}", {"triton": float(i), "who": sys.argv[1]})
    assert all(set(v) == {"triton", "who"} for v in _disk_cache.read("measurements").values())
"""


def test_two_processes_at_once_do_not_harm_the_file() -> None:
    runs = [subprocess.Popen([sys.executable, "-c", TWO, str(i)]) for i in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    assert len(_disk_cache.read("measurements")) == 5


CALLS = {
    "hsic": ([0, 0], [0], [1], False, 64, -1),
    "nhsic": ([0, 0], [0], [1], 1e-5, True, [0, 1]),
    "coco": ([0, 0], [0], [1], "spectral", True, [0, 1]),
}


def best(function: Callable[[], object]) -> float:
    """Seconds of a call, the best of many rounds: what other jobs add falls away."""
    rounds = []
    for _ in range(200):
        begun = time.perf_counter()
        for _ in range(50):
            function()
        rounds.append((time.perf_counter() - begun) / 50)
    return min(rounds)


@pytest.mark.parametrize("op", CALLS)
def test_the_choice_costs_little_after_the_first_call(op: str) -> None:
    """Beyond the call of the function itself; a whole op call costs tens of microseconds."""
    nothing = lambda *args: None  # noqa: E731
    x = [torch.rand(64, 30), torch.rand(64, 40)]
    args = (x, torch.ones(2, dtype=torch.float64), *CALLS[op])
    choose._served[choose.signature(op, args)] = nothing
    call = choose.caller_of(op)  # what the dispatcher calls
    overhead = best(lambda: call(*args)) - best(lambda: nothing(*args))
    print(f"choice: {1e6 * overhead:.2f} microseconds")
    assert overhead < 4e-6  # 1.7 on an idle core; twice that beside another job


def test_the_choice_on_a_cpu_costs_little() -> None:
    x = [torch.rand(64, 30), torch.rand(64, 40)]
    for op, constants in CALLS.items():
        args = (x, torch.ones(2, dtype=torch.float64), *constants)
        taken = best(lambda: on_cpu.function_of(op, args, False))  # noqa: B023
        print(f"{op}: {1e6 * taken:.2f} microseconds")
        assert taken < 4e-6


@pytest.mark.parametrize("name", [name for row in ROWS.values() for name in row.functions])
def test_a_signature_tells_apart_what_a_choice_may_depend_on(name: str) -> None:
    """Of every function: dtypes, shapes and strides of the features, dtypes of the rest, all constants."""
    contract = CONTRACTS[name]
    features = contract.arguments[contract.features_at]
    plain = {
        "Tensor": lambda: torch.ones(3, 4), "Tensor[]": lambda: [torch.ones(3, 4), torch.ones(3, 5)],
        "int[]": lambda: [0, 1], "int": lambda: 1, "float": lambda: 0.5, "bool": lambda: True,
        "str": lambda: "fro",
    }  # fmt: skip
    others = {
        "Tensor": [torch.ones(3, 4, dtype=torch.float16)],
        "Tensor[]": [[torch.ones(3, 4), torch.ones(3, 5, dtype=torch.float16)]],
        "int[]": [[1, 0], [0]], "int": [2], "float": [0.25], "bool": [False], "str": ["spectral"],
    }  # fmt: skip
    layouts = [torch.ones(4, 3), torch.ones(4, 3).T, torch.ones(3, 4, dtype=torch.float64)]
    args = [plain[kind]() for kind in contract.types]
    again = [plain[kind]() for kind in contract.types]
    known = {choose.signature(name, args)}
    assert choose.signature(name, again) in known  # values do not count
    for i, kind in enumerate(contract.types):
        changes = [*others[kind]]
        if contract.arguments[i] == features:
            changes += layouts if kind == "Tensor" else [[torch.ones(3, 4), t] for t in layouts]
            changes += [] if kind == "Tensor" else [[torch.ones(3, 4)]]
        for change in changes:
            key = choose.signature(name, [*args[:i], change, *args[i + 1 :]])
            assert key not in known, contract.arguments[i]
            known.add(key)
    with torch.inference_mode():
        assert choose.signature(name, args) in known


def test_too_many_signatures_are_forgotten_together(
    stand_ins: StandIns, right: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins.add("composed", 1.0, right())
    monkeypatch.setattr(choose, "MOST_SERVED", 3)
    for n in range(2, 9):
        choose.call("double_center", torch.rand(n, n))
    assert len(choose._served) <= 3


def test_float64_is_left_to_what_takes_it() -> None:
    x = torch.rand(5, 3, dtype=torch.float64)
    arguments = named("gaussian_gram", (x, torch.tensor(0.1), True))
    assert list(choose.candidates(ROWS["gaussian_gram"], arguments)) == ["composed"]


def test_rows_too_wide_for_32_bits_are_left_to_others() -> None:
    for width, taken in ((1 << 24, False), ((1 << 24) - 1, True)):
        wide = [torch.empty(4, 3, device="meta"), torch.empty(4, width, device="meta")]
        arguments = named("hsic", (wide, None, [0, 0], [0], [1], False, 4, -1))
        assert ("triton" in choose.candidates(ROWS["hsic"], arguments)) == taken
    strided = torch.empty(4, 1 << 25, device="meta")[:, :5]
    arguments = named("gaussian_gram", (strided, None, True))
    assert "triton" not in choose.candidates(ROWS["gaussian_gram"], arguments)


def test_a_row_says_why_it_does_not_take_a_call() -> None:
    group = [torch.rand(3, 2)] * 70
    args = (group, None, [0] * 70, list(range(69)), [69] * 69, 1e-5, True, [])
    cuda = ROWS["nhsic"].get("cuda")
    assert cuda is not None
    assert cuda.refusal(named("nhsic", args)) == "70 variables or pairs, at most 64"
    few = (group[:9], None, [0] * 9, [0], [1], 1e-5, True, [])
    assert cuda.refusal(named("nhsic", few)) is None
    many = ([torch.rand(300, 2)] * 2, None, [0] * 2, [0], [1], 1e-5, True, [])
    assert cuda.refusal(named("nhsic", many)) == "300 samples, at most 128"


def test_the_report_counts_the_candidates_in_their_order() -> None:
    """Of every op: those of its row that are there, as the chooser would try them."""
    reasons = {row.op: row.reason for row in report.backends() if row.device == "cuda"}
    for op, row in ROWS.items():
        there = [i.name for i in row.on_gpu() if functions_of(op, i.name)]
        if not there:
            assert "candidate" not in reasons[op]
            continue
        count = len(there) + bool(row.composition and not row.composition_waits)
        assert f"{count} candidate{'s' * (count > 1)}: " in reasons[op]
        places = [reasons[op].index(f"{name}: ") for name in there]
        assert places == sorted(places)
    assert "where none of them serves, composition of" in reasons["nhsic"]


def test_tuning_compares_what_the_row_has_for_a_device() -> None:
    table = tune(32, [9, 7], device="cpu", measures=["hsic", "nhsic", "coco"])
    found = {row.op: (set(row.errors), row.chosen) for row in table.rows}
    assert found["hsic"] == ({"cpu", "composed", "split"}, "cpu")
    assert found["nhsic"] == ({"cpu", "composed", "sweep", "composition"}, "cpu")
    # bido_cpu has the Frobenius norm alone; what is fastest of the others does not serve on a CPU.
    assert found["coco"] == ({"composed", "squared", "composition"}, "composition")

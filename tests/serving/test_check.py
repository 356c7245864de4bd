# SPDX-License-Identifier: Apache-2.0
"""The first-use check: wrong kernels fail it, its verdict is kept, and a dead process is remembered."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from serving.conftest import CPU, Functions, StandIns, defaults

from bido_ext import _disk_cache
from bido_ext.serving import check, choose, process, verdicts
from bido_ext.serving.check import self_check
from bido_ext.serving.comparison import SelfCheckError
from bido_ext.serving.implementations import functions_of
from bido_ext.serving.row import ROWS, SHAPES, checked_ops, default_of, named, row_of


@pytest.mark.parametrize("op", checked_ops())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_defaults_pass(op: str, dtype: torch.dtype) -> None:
    assert 0 < self_check(op, defaults(op), dtype, CPU) < 0.1


@pytest.mark.parametrize("op", [op for op in checked_ops() if ROWS[op].get("composed")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_pytorchs_products_pass(op: str, dtype: torch.dtype) -> None:
    assert self_check(op, functions_of(op, "composed"), dtype, CPU) < 0.1


@pytest.mark.parametrize("op", ["gaussian_gram", "gram_stack", "hsic", "nhsic"])
def test_the_cpu_kernels_pass_in_float64(op: str) -> None:
    assert self_check(op, functions_of(op, "cpu"), torch.float64, CPU) < 1e-10


@pytest.mark.parametrize(
    "name", ["gaussian_gram", "gaussian_gram_backward", "double_center", "gram_stack", "hsic",
             "hsic_backward", "nhsic_backward", "coco"]
)  # fmt: skip
def test_a_wrong_kernel_fails(name: str) -> None:
    op = row_of(name).op
    right = defaults(op)

    def slightly_wrong(*args: Any) -> Any:
        result = right[name](*args)
        if isinstance(result, tuple):
            return (result[0] * 1.01, *result[1:])
        return [r * 1.01 for r in result] if isinstance(result, list) else result * 1.01

    with pytest.raises(SelfCheckError, match="off by"):
        self_check(op, {**right, name: slightly_wrong}, torch.float32, CPU)


@pytest.mark.parametrize("name", ["nhsic", "nhsic_backward"])
@pytest.mark.parametrize("wrong", [torch.float64, torch.float32])
def test_either_algebra_of_nhsic_is_checked(name: str, wrong: torch.dtype) -> None:
    """Both serve: float32 where it is asked for, and beyond 1024 samples."""
    right = functions_of("nhsic", "composed")

    def function(*args: Any) -> Any:
        arguments, result = named(name, args), right[name](*args)
        inverses = arguments["inverses"] if name == "nhsic_backward" else result[2]
        if inverses.dtype != wrong:
            return result
        if name == "nhsic_backward":
            return [1.01 * r for r in result]
        return (1.01 * result[0], *result[1:])

    with pytest.raises(SelfCheckError, match=f"{str(wrong)[6:]} algebra .*is off by"):
        self_check("nhsic", {**right, name: function}, torch.float32, CPU)


def test_a_check_asks_nothing_that_the_implementation_does_not_take() -> None:
    functions = functions_of("nhsic", "cpu")
    asked: list[bool] = []

    def counted(*args: Any) -> Any:
        asked.append(named("nhsic", args)["wide"])
        return functions["nhsic"](*args)

    if not functions:
        pytest.skip("bido_cpu was not built")
    self_check(
        "nhsic", {**functions, "nhsic": counted}, torch.float32, CPU, implementation="cpu"
    )  # fmt: skip
    assert asked == [True] * len(ROWS["nhsic"].shapes)


def test_what_only_an_implementation_has_is_checked_too() -> None:
    """A wrong entry beyond the rows of the usual shapes is seen by its own."""
    right = defaults("gaussian_gram")

    def wrong_far_away(*args: Any) -> torch.Tensor:
        K = right["gaussian_gram"](*args)
        K[500:] *= 2
        return K

    functions = {**right, "gaussian_gram": wrong_far_away}
    self_check("gaussian_gram", functions, torch.float32, CPU)
    with pytest.raises(SelfCheckError, match="off by"):
        self_check("gaussian_gram", functions, torch.float32, CPU, implementation="tma")


def test_a_kernel_that_leaves_nan_fails() -> None:
    right = default_of("double_center")
    wrong = {"double_center": lambda K: right(K).fill_(float("nan"))}
    with pytest.raises(SelfCheckError, match="off by nan"):
        self_check("double_center", wrong, torch.float32, CPU)


def test_a_kernel_of_another_shape_fails() -> None:
    with pytest.raises(SelfCheckError, match=r"is of shape \(4, 5\), wanted \(5, 5\)"):
        self_check("double_center", {"double_center": lambda K: K[1:]}, torch.float32, CPU)


def test_a_kernel_that_raises_is_refused(stand_ins: StandIns) -> None:
    def broken(K: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such instruction")

    stand_ins.add("triton", 1.0, {"double_center": broken})
    with pytest.warns(RuntimeWarning, match="no such instruction"):
        assert stand_ins.chosen() is default_of("double_center")
    assert stand_ins.chosen() is default_of("double_center")  # without a second warning


def test_a_pass_is_remembered_on_disk_a_failure_is_not(stand_ins: StandIns) -> None:
    calls: list[int] = []
    right = default_of("double_center")

    def counted(K: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return right(K)

    stand_ins.add("triton", 1.0, {"double_center": counted})
    for _ in range(2):
        stand_ins.chosen()
        choose.forget()
    assert len(calls) == len(SHAPES)  # one check
    ((key, error),) = _disk_cache.read("self_checks").items()
    assert key.startswith("double_center/triton/torch.float32")
    assert torch.__version__ in key
    assert 0 < error < 1e-5


def faulty_functions(calls: list[int]) -> Functions:
    def faulty(K: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    return {"double_center": faulty}


def test_a_kernel_that_breaks_the_device_is_refused_by_the_next_process(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an illegal access nothing computes any more: no other implementation can be checked or serve."""
    calls: list[int] = []
    stand_ins.add("triton", 1.0, faulty_functions(calls))
    with monkeypatch.context() as patch:
        patch.setattr(verdicts, "lives", lambda device: not calls)  # alive until the kernel runs
        with pytest.raises(RuntimeError, match="broke the device in its self-check: RuntimeError"):
            stand_ins.chosen()
        # The same process goes on: the next implementation is not checked on a dead device, and not blamed.
        stand_ins.there = {"cuda": stand_ins.there["triton"]}
        with pytest.raises(RuntimeError, match="computes nothing in this process any more"):
            stand_ins.chosen()
    assert calls == [1]
    assert list(_disk_cache.read("self_checks").values()) == [verdicts.BROKE]
    choose.forget()  # the next process
    stand_ins.there = {"triton": stand_ins.there["cuda"]}
    with pytest.warns(RuntimeWarning, match="broke the device"):
        assert stand_ins.chosen() is default_of("double_center")
    assert calls == [1]


def test_a_check_that_ended_the_process_is_not_tried_again(stand_ins: StandIns) -> None:
    right = stand_ins.add("triton", 1.0, defaults("double_center"))
    stand_ins.add("triton", 1.0, {"double_center": lambda K: right["double_center"](K)})
    stand_ins.chosen()
    (stored,) = _disk_cache.read("self_checks")
    child = subprocess.Popen(
        [sys.executable, "-c", "from bido_ext.serving import process; print(process.this_process())"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    said = child.communicate()[0].strip()
    _disk_cache.update("self_checks", stored, said)
    choose.forget()
    with pytest.warns(RuntimeWarning, match="did not live to its end"):
        assert stand_ins.chosen() is default_of("double_center")
    # One that runs at this moment is no reason, nor is one on another machine.
    for running in (process.this_process(), said.partition(" on ")[0] + " on another"):
        _disk_cache.update("self_checks", stored, running)
        choose.forget()
        assert stand_ins.chosen() is stand_ins.there["triton"]["double_center"]


def test_a_number_given_out_again_is_another_process() -> None:
    """Containers count their processes from 1: the number alone tells nothing."""
    now = process.this_process()
    assert not process.has_died(now)
    number, _, rest = now.partition(" since ")
    assert process.has_died(f"{number} since 1 on {rest.partition(' on ')[2]}")
    assert not process.has_died("passed")


def test_an_interrupted_check_is_tried_again(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = default_of("double_center")
    stand_ins.add("triton", 1.0, {"double_center": lambda K: right(K)})

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(check, "outcome", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stand_ins.chosen()
    assert list(_disk_cache.read("self_checks").values()) == ["interrupted"]
    assert stand_ins.chosen() is stand_ins.there["triton"]["double_center"]


def test_the_check_runs_inside_of_an_op() -> None:
    """There autograd is off, and inference mode may be on."""
    library = torch.library.Library("bido_ext_test", "FRAGMENT")
    library.define("probe(Tensor x) -> Tensor")
    found: list[float | str] = []

    def probe(x: torch.Tensor) -> torch.Tensor:
        found.append(check.outcome("hsic", defaults("hsic"), torch.float32, CPU, False))
        return x.clone()

    library.impl("probe", probe, "CPU")
    torch.library.register_autograd("bido_ext_test::probe", lambda ctx, g: g, lib=library)
    torch.ops.bido_ext_test.probe(torch.rand(3, requires_grad=True))
    with torch.inference_mode():
        torch.ops.bido_ext_test.probe(torch.rand(3))
    assert all(isinstance(error, float) and error < 1e-4 for error in found)
    assert len(found) == 2

# SPDX-License-Identifier: Apache-2.0
"""The choice of an implementation: order, self-check with a kernel made wrong on purpose, kept verdicts."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interpreter import skip_where_the_interpreter_is_broken

from bido_ext import _disk_cache, _serve
from bido_ext._self_check import FAMILIES, SHAPES, SelfCheckError, self_check

CPU = torch.device("cpu")


def defaults(op: str) -> dict[str, Callable[..., Any]]:
    return {name: _serve._defaults[name] for name in FAMILIES[op]}


@pytest.fixture(autouse=True)
def _fresh_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIDO_EXT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(_serve, "_verdicts", {})


@pytest.mark.parametrize("op", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_reference_passes_its_own_check(op: str, dtype: torch.dtype) -> None:
    self_check(op, defaults(op), dtype, CPU)


@pytest.mark.parametrize(
    "name", ["gaussian_gram", "gaussian_gram_backward", "double_center", "gram_stack", "hsic", "hsic_backward"]
)  # fmt: skip
def test_a_wrong_kernel_fails(name: str) -> None:
    op = _serve.FAMILY_OF[name]
    right = defaults(op)

    def slightly_wrong(*args: Any) -> Any:
        result = right[name](*args)
        if isinstance(result, tuple):
            return (result[0] * 1.01, *result[1:])
        return [r * 1.01 for r in result] if isinstance(result, list) else result * 1.01

    with pytest.raises(SelfCheckError, match="off by"):
        self_check(op, {**right, name: slightly_wrong}, torch.float32, CPU)


def test_a_kernel_that_leaves_nan_fails() -> None:
    right = defaults("double_center")
    wrong = {"double_center": lambda K: right["double_center"](K).fill_(float("nan"))}
    with pytest.raises(SelfCheckError):
        self_check("double_center", wrong, torch.float32, CPU)


def choose_among(
    implementations: dict[str, dict[str, Callable[..., Any]]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    monkeypatch.setattr(
        _serve, "functions_of", lambda op, implementation: implementations.get(implementation, {})
    )
    return _serve.choose("double_center", {torch.float32}, CPU)


def test_a_failing_kernel_is_refused_once_and_the_next_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = defaults("double_center")["double_center"]
    wrong, next_one = {"double_center": lambda K: K}, {"double_center": lambda K: right(K)}
    with pytest.warns(RuntimeWarning, match="bido_ext::double_center: the triton kernel failed"):
        chosen = choose_among({"triton": wrong, "cuda": next_one}, monkeypatch)
    assert chosen is next_one["double_center"]
    assert choose_among({"triton": wrong}, monkeypatch) is right  # without a second warning


def test_a_kernel_that_raises_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(K: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such instruction")

    with pytest.warns(RuntimeWarning, match="no such instruction"):
        chosen = choose_among({"triton": {"double_center": broken}}, monkeypatch)
    assert chosen is _serve._defaults["double_center"]


def test_a_pass_is_remembered_on_disk_a_failure_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    right = defaults("double_center")["double_center"]

    def counted(K: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return right(K)

    for _ in range(2):
        choose_among({"triton": {"double_center": counted}}, monkeypatch)
        _serve._verdicts.clear()
    assert len(calls) == len(SHAPES)  # one check
    assert list(_disk_cache.read("self_checks").values()) == ["passed"]
    (key,) = _disk_cache.read("self_checks")
    assert key.startswith("double_center/triton/torch.float32")
    assert torch.__version__ in key


def test_a_kernel_that_breaks_the_device_is_refused_by_the_next_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After an illegal access nothing computes any more: no other implementation can be checked or serve."""
    calls: list[int] = []

    def faulty(K: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with monkeypatch.context() as patch:
        patch.setattr(_serve, "_lives", lambda device: not calls)  # alive until the kernel runs
        with pytest.raises(
            RuntimeError, match="broke the device in its self-check: RuntimeError: CUDA"
        ):
            choose_among({"triton": {"double_center": faulty}}, monkeypatch)
        # The same process goes on: the next implementation is not checked on a dead device, and not blamed.
        with pytest.raises(RuntimeError, match="computes nothing in this process any more"):
            choose_among({"cuda": {"double_center": faulty}}, monkeypatch)
    assert calls == [1]
    assert list(_disk_cache.read("self_checks").values()) == [_serve.BROKE]
    _serve._verdicts.clear()  # the next process
    with pytest.warns(RuntimeWarning, match="broke the device"):
        chosen = choose_among({"triton": {"double_center": faulty}}, monkeypatch)
    assert chosen is _serve._defaults["double_center"]
    assert calls == [1]


def test_rows_too_wide_for_32_bits_are_left_to_others() -> None:
    for width, taken in ((1 << 24, False), ((1 << 24) - 1, True)):
        wide = [torch.empty(4, 3, device="meta"), torch.empty(4, width, device="meta")]
        args = (wide, None, [0, 0], [0], [1], False, 4, -1)
        assert _serve.serves("hsic", "triton", {torch.float32}, args) == taken
        assert _serve.serves("hsic", "cuda", {torch.float32}, args)
    strided = torch.empty(4, 1 << 25, device="meta")[:, :5]
    assert not _serve.serves("gaussian_gram", "triton", {torch.float32}, (strided, None, True))


def test_a_verdict_belongs_to_the_kernels_it_was_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    right = {"double_center": lambda K: defaults("double_center")["double_center"](K)}
    choose_among({"triton": right}, monkeypatch)
    monkeypatch.setattr(_serve, "_kernels_digest", lambda: "another build")
    _serve._verdicts.clear()
    choose_among({"triton": right}, monkeypatch)
    assert len(_disk_cache.read("self_checks")) == 2


def test_a_check_that_ended_the_process_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    right = {"double_center": lambda K: defaults("double_center")["double_center"](K)}
    choose_among({"triton": right}, monkeypatch)
    (stored,) = _disk_cache.read("self_checks")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    _disk_cache.update("self_checks", stored, f"running in {gone.pid} on {platform.node()}")
    _serve._verdicts.clear()
    with pytest.warns(RuntimeWarning, match="did not live to its end"):
        chosen = choose_among({"triton": right}, monkeypatch)
    assert chosen is _serve._defaults["double_center"]
    # one that runs elsewhere at this moment is no reason, nor is one on another machine
    _disk_cache.update("self_checks", stored, f"running in {gone.pid} on another")
    _serve._verdicts.clear()
    assert choose_among({"triton": right}, monkeypatch) is right["double_center"]
    _disk_cache.update("self_checks", stored, f"running in {os.getpid()} on {platform.node()}")
    _serve._verdicts.clear()
    assert choose_among({"triton": right}, monkeypatch) is right["double_center"]


def test_an_interrupted_check_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    right = {"double_center": lambda K: defaults("double_center")["double_center"](K)}

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_serve, "_problem", interrupted)
        with pytest.raises(KeyboardInterrupt):
            choose_among({"triton": right}, monkeypatch)
    assert list(_disk_cache.read("self_checks").values()) == ["interrupted"]
    assert choose_among({"triton": right}, monkeypatch) is right["double_center"]


def test_large_groups_are_left_to_the_next_in_order() -> None:
    group = [torch.rand(3, 2)] * 70
    args = (group, None, [0] * 70, list(range(69)), [69] * 69, 1e-5, True, [])
    assert not _serve.serves("nhsic", "cuda", {torch.float32}, args)
    assert _serve.serves(
        "nhsic", "cuda", {torch.float32}, (group[:9], None, [0] * 9, [0], [1], 1e-5, True, [])
    )


def test_a_recorded_implementation_comes_first_and_unchecked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    function = {"double_center": lambda K: K}
    monkeypatch.setitem(_serve.RECORDED, ("double_center", "cpu"), ("cuda",))
    chosen = choose_among({"triton": {}, "cuda": function}, monkeypatch)
    assert chosen is function["double_center"]


def test_the_check_runs_inside_of_an_op() -> None:
    """There autograd is off, and inference mode may be on."""
    library = torch.library.Library("bido_ext_test", "FRAGMENT")
    library.define("probe(Tensor x) -> Tensor")
    problems: list[str | None] = []

    def probe(x: torch.Tensor) -> torch.Tensor:
        problems.append(_serve._problem("hsic", defaults("hsic"), torch.float32, CPU, False))
        return x.clone()

    library.impl("probe", probe, "CPU")
    torch.library.register_autograd("bido_ext_test::probe", lambda ctx, g: g, lib=library)
    torch.ops.bido_ext_test.probe(torch.rand(3, requires_grad=True))
    with torch.inference_mode():
        torch.ops.bido_ext_test.probe(torch.rand(3))
    assert problems == [None, None]


def test_float64_is_served_by_the_reference() -> None:
    chosen = _serve.choose("hsic", {torch.float64}, CPU)
    assert chosen is _serve._defaults["hsic"]


def test_features_decide_the_dtype() -> None:
    x, gamma = torch.zeros(3, 2, dtype=torch.bfloat16), torch.tensor(1.0, dtype=torch.float64)
    assert _serve._features((x, gamma, True)) == (CPU, {torch.bfloat16})
    parameters = torch.ones(2, dtype=torch.float64)
    group = [x, x.float(), torch.zeros(3, dtype=torch.int64)]
    assert _serve._features((parameters, group, parameters)) == (
        CPU,
        {torch.bfloat16, torch.float32},
    )


def test_unreadable_cache_is_as_good_as_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BIDO_EXT_CACHE_DIR", "/proc/no/such/place")
    _disk_cache.update("topic", "a", 1)
    assert _disk_cache.read("topic") == {}


STEP = """
import os, torch, bido_ext as bx
torch.manual_seed(0)
x, y = torch.rand(12, 40), torch.arange(12) % 3
for measure in ("hsic", "nhsic", "coco", "cka"):
    z = [torch.rand(12, d, generator=torch.Generator().manual_seed(d)).requires_grad_() for d in (50, 9)]
    loss = bx.BiDOLoss(measure=measure, lambda_x=0.5, lambda_y=0.3)(x, z, y)
    loss.backward()
    print(float(loss), *[float(t.grad.norm()) for t in z])
if "STREAM" not in os.environ:
    raise SystemExit
big = torch.rand(520, 3, requires_grad=True)
value = bx.hsic(big, torch.rand(520, 2), workspace_bytes=1_000_000)
value.backward()
print(float(value), float(big.grad.norm()))
"""


def test_a_whole_step_through_the_kernels() -> None:
    """The package as a user calls it, served by the interpreted kernels, equals the CPU kernels."""
    skip_where_the_interpreter_is_broken()
    results = []
    forced = {"BIDO_EXT_BACKEND": "triton", "TRITON_INTERPRET": "1"}
    for extra in ({"STREAM": "1"}, {**forced, "STREAM": "1"}, {"BIDO_EXT_BACKEND": "reference"}):
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("BIDO_EXT", "TRITON_I"))
        }
        done = subprocess.run(
            [sys.executable, "-c", STEP], env={**environment, **extra}, capture_output=True, text=True,
            check=False, cwd="/",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        results.append([float(word) for word in done.stdout.split()])
    native, triton, reference = results
    assert triton == pytest.approx(native, rel=2e-5)
    assert reference == pytest.approx(native[: len(reference)], rel=2e-5)

# SPDX-License-Identifier: Apache-2.0
"""Calls every public op with arguments of all kinds, good, odd and nonsensical.

A call either returns what its contract says, or raises a ValueError or TypeError that names one of its
arguments (WorkspaceError, a ValueError, where a workspace is too small); the interpreter survives all of them.

python tests/fuzz_ops.py 10000      # calls, with hypothesis; prints what came of them
"""

from __future__ import annotations

import collections
import inspect
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from fuzz_tensors import (
    FLOATS,
    OTHERS,
    any_shape,
    features,
    labels,
    likely,
    nonsense,
    sizes,
    tensors,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

import bido_ext as bx

numbers = st.sampled_from([0, -1, 1, 2, 5.0, 1e-5, 1e300, float("nan"), float("inf"), 10**30, True])
sigmas = likely(
    st.sampled_from([5.0, 1, "median", 0.1, 1e4]),
    numbers | nonsense | tensors(st.just(()) | any_shape),
)


@st.composite
def kernels(draw: st.DrawFn) -> Any:
    kind = draw(likely(st.sampled_from(["none", "gaussian", "linear", "imq"]), st.just("odd")))
    if kind == "gaussian":
        try:
            return bx.Gaussian(draw(sigmas), draw(likely(st.booleans(), nonsense)))
        except (ValueError, TypeError):
            return bx.Gaussian()
    if kind == "odd":
        return draw(nonsense | st.sampled_from([bx.Kernel(), bx.Linear]))
    return {"none": None, "linear": bx.Linear(), "imq": bx.InverseMultiquadric()}[kind]


classes = likely(st.sampled_from([None, 4, 10]), numbers | nonsense)
workspaces = likely(st.sampled_from([None, 10**6, 10**8]), numbers | nonsense)
dtypes = likely(
    st.sampled_from([None, torch.float32, torch.float64]), st.sampled_from(OTHERS) | nonsense
)


@st.composite
def measure_calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    name = draw(st.sampled_from(["hsic", "nhsic", "coco", "cka"]))
    n = draw(sizes)
    options: dict[str, Any] = {
        "x": draw(features(n)),
        "y": draw(features(n) | labels(n)),
        "kernel_x": draw(kernels()),
        "kernel_y": draw(kernels()),
        "num_classes": draw(classes),
    }
    if name in ("hsic", "cka"):
        options["workspace_bytes"] = draw(workspaces)
    if name == "hsic":
        options["estimator"] = draw(likely(st.sampled_from(["biased", "unbiased"]), nonsense))
    if name == "nhsic":
        options["eps"] = draw(likely(st.sampled_from([1e-5, 1e-3]), numbers | nonsense))
    if name == "coco":
        options["norm"] = draw(likely(st.sampled_from(["spectral", "fro"]), nonsense))
    if name in ("nhsic", "coco"):
        options["linalg_dtype"] = draw(dtypes)
    return name, options


@st.composite
def gram_calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    if draw(st.booleans()):
        square = sizes.map(lambda n: (n, n))
        return "double_center", {"K": draw(likely(tensors(likely(square, any_shape)), nonsense))}
    return "gaussian_gram", {
        "x": draw(sizes.flatmap(features)),
        "sigma": draw(sigmas),
        "scale_by_dim": draw(likely(st.booleans(), nonsense)),
    }


@st.composite
def plan_calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    widths = st.lists(st.integers(0, 5000), min_size=1, max_size=5)
    return "plan", {
        "n": draw(likely(st.integers(2, 10**6), numbers | nonsense)),
        "dims": draw(likely(widths, nonsense | st.lists(numbers | nonsense, max_size=3))),
        "dtype": draw(likely(st.sampled_from(FLOATS), st.sampled_from(OTHERS) | nonsense)),
        "measure": draw(likely(st.sampled_from(["hsic", "nhsic", "coco", "cka"]), nonsense)),
        "workspace_bytes": draw(likely(st.sampled_from([None, 10**9]), numbers | nonsense)),
        "device": draw(
            likely(st.just("cpu"), st.sampled_from(["meta", "cpu:0", "cuda:77"]) | nonsense)
        ),
        "world_size": draw(likely(st.sampled_from([1, 4]), numbers | nonsense)),
        "exchange": draw(likely(st.sampled_from(["auto", "gather", "ring"]), nonsense)),
    }


@st.composite
def loss_calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    n = draw(sizes)
    image = st.tuples(st.just(n), st.integers(1, 3), st.integers(1, 6))
    layer = features(n) | tensors(image)
    listed = st.lists(layer, max_size=3)
    named = st.dictionaries(st.sampled_from(["a", "b", "c"]), layer, max_size=3)
    return "BiDOLoss", {
        "measure": draw(likely(st.sampled_from(["hsic", "nhsic", "coco", "cka"]), nonsense)),
        "lambda_x": draw(likely(st.sampled_from([0.0, 0.5]), numbers | nonsense)),
        "lambda_y": draw(likely(st.sampled_from([0.0, 2]), numbers | nonsense)),
        "sigma": draw(sigmas),
        "kernel_y": draw(kernels()),
        "num_classes": draw(classes),
        "eps": draw(likely(st.just(1e-5), numbers | nonsense)),
        "coco_norm": draw(likely(st.sampled_from(["spectral", "fro"]), nonsense)),
        "linalg_dtype": draw(dtypes),
        "workspace_bytes": draw(likely(st.none(), workspaces)),
        "process_group": draw(likely(st.none(), nonsense)),
        "local": draw(likely(st.booleans(), nonsense)),
        "guard": draw(likely(st.sampled_from([None, True]), nonsense)),
        "x": draw(features(n) | tensors(image)),
        "features": draw(likely(listed | named, nonsense)),
        "y": draw(features(n) | labels(n)),
    }


calls = st.one_of(measure_calls(), measure_calls(), loss_calls(), gram_calls(), plan_calls())


def make(name: str, arguments: dict[str, Any]) -> Any:
    """The call; its gradient too where there is one."""
    if name == "BiDOLoss":
        step = {key: arguments.pop(key) for key in ("x", "features", "y")}
        result = bx.BiDOLoss(**arguments)(**step)
    else:
        result = getattr(bx, name)(**arguments)
    if isinstance(result, Tensor) and result.requires_grad:
        result.sum().backward()
    return result


def names_of(name: str) -> set[str]:
    """The arguments of a public function, as its errors may call them."""
    function: Callable[..., Any] = getattr(bx, name)
    names = set(inspect.signature(function).parameters)
    if name == "BiDOLoss":
        names |= {"x", "features", "y"}
    if names & {"kernel_x", "kernel_y", "sigma"}:
        names |= {"sigma", "scale_by_dim", "kernel"}
    return names


def check(call: tuple[str, dict[str, Any]], outcomes: collections.Counter[str]) -> None:
    """Makes a call and checks what comes of it."""
    name, arguments = call
    dims = getattr(arguments.get("x", arguments.get("K")), "shape", None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = make(name, dict(arguments))
    except (ValueError, TypeError) as error:
        outcomes[f"{name}: {type(error).__name__}"] += 1
        if not names_of(name) & set(re.findall(r"\w+", str(error))):
            raise AssertionError(f"names no argument: {error!r}") from error
        return
    outcomes[f"{name}: returned"] += 1
    if name in ("gaussian_gram", "double_center"):
        assert result.shape == (dims[0], dims[0])  # type: ignore[index]
    elif name != "plan":
        assert result.dim() == 0
        assert result.dtype in (torch.float32, torch.float64)


def fuzz(examples: int, database: bool = False) -> collections.Counter[str]:
    """Makes that many calls; raises at the first that breaks the rule, made as small as possible."""
    outcomes: collections.Counter[str] = collections.Counter()
    phases = [Phase.explicit, Phase.generate, Phase.shrink]

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(calls)
    def run(call: tuple[str, dict[str, Any]]) -> None:
        check(call, outcomes)

    run()
    return outcomes


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = fuzz(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
    for outcome, count in sorted(found.items()):
        print(f"{count:7d} {outcome}")
    print(f"{sum(found.values()):7d} calls, no crash")

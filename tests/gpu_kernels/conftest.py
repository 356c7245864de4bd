# SPDX-License-Identifier: Apache-2.0
"""The GPU kernels without a GPU: Triton's in its interpreter, CUDA C++ in the emulator, by either matrix unit."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from cuda_emulator import build
from interpreter import skip_where_the_interpreter_is_broken

from bido_ext.serving.implementations import functions_of
from bido_ext.serving.row import ROWS, checked_ops


@dataclass
class Kernels:
    """Functions by the names of the contracts, and how to choose between their two ways of making a stack."""

    name: str
    functions: dict[str, Callable[..., Any]]
    monkeypatch: pytest.MonkeyPatch

    def __getattr__(self, function: str) -> Callable[..., Any]:
        return self.functions[function]

    def share_columns(self, shared: bool) -> None:
        """Whether the columns of a group are shared among blocks (few samples), or tiles are made whole."""
        if self.name == "triton":
            stack = importlib.import_module("bido_ext.triton_kernels.gram_stack")
            split = importlib.import_module("bido_ext.triton_kernels.split_gram")
            self.monkeypatch.setattr(stack, "pays", lambda features: shared)
            self.monkeypatch.setattr(split, "LEAST_COLUMNS", 32)
        else:
            self.monkeypatch.setenv("BIDO_EMULATOR_MULTIPROCESSORS", "132" if shared else "0")


def with_bounds_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter the bounds are those of a CPU, where float64 is a second try."""
    entry = importlib.import_module("bido_ext.triton_kernels.entry")
    resolution = importlib.import_module("bido_ext.triton_kernels.resolution")
    constexpr = importlib.import_module("triton.language").constexpr
    for name, bound in resolution.ON_GPU.items():
        monkeypatch.setattr(resolution, name, constexpr(bound))
        if hasattr(entry, name):
            monkeypatch.setattr(entry, name, constexpr(bound))


def make_kernels(name: str, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    if torch.cuda.is_available():
        pytest.skip("on a GPU these kernels are tested there (-m gpu)")
    if name == "triton":
        skip_where_the_interpreter_is_broken()
        with_bounds_of_a_gpu(monkeypatch)
        loaded = [functions_of(op, "triton") for op in checked_ops()]
        return Kernels(name, {k: f for family in loaded for k, f in family.items()}, monkeypatch)
    monkeypatch.setenv("BIDO_EMULATOR_CAPABILITY", "9" if name == "cuda-wgmma" else "8")
    monkeypatch.setenv("BIDO_EMULATOR_WGMMA", "lazy")
    monkeypatch.setenv("BIDO_EMULATOR_ORDER", "shuffle")
    return Kernels(
        name,
        build.functions(
            tuple(name for row in ROWS.values() if row.get("cuda") for name in row.functions)
        ),
        monkeypatch,
    )


@pytest.fixture(params=["triton", "cuda-mma", "cuda-wgmma"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    return make_kernels(request.param, monkeypatch)


@pytest.fixture(params=["cuda-mma", "cuda-wgmma"])
def cuda_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    return make_kernels(request.param, monkeypatch)

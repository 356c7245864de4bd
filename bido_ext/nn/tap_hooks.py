# SPDX-License-Identifier: Apache-2.0
"""The hooks of FeatureTaps, and what of a model's other hooks and modes they have to know."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from bido_ext.ops._graph_constant import graph_constant


class Taps(Protocol):
    """What the hooks tell."""

    def _begin(self) -> None: ...

    def _keep(self, name: str, output: Any) -> None: ...

    def _end(self) -> None: ...


class _NoScript:
    """A hook that torch.jit.script cannot compile and says so: it asks each hook for its name first."""

    @property
    def __name__(self) -> str:
        raise AttributeError(
            "torch.jit.script compiles the hooks of a model and cannot compile those of FeatureTaps: call "
            "taps.remove() before scripting (of a copied model, before copying)."
        )


class _Hook(_NoScript):
    """A hook of the model at hand; copies of the model get one that does nothing."""

    def __init__(self, taps: Taps) -> None:
        self.taps = taps

    def __reduce__(self) -> tuple[Any, ...]:
        return InertHook, ()


class Begin(_Hook):
    """Before the model's forward."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        if not _exporting():
            self.taps._begin()


class Keep(_Hook):
    """After a layer's forward."""

    def __init__(self, taps: Taps, name: str) -> None:
        super().__init__(taps)
        self.name = name

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if not _exporting():  # an exported model is the classifier alone
            self.taps._keep(self.name, output)


class End(_Hook):
    """After the model's forward."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if not _exporting():
            self.taps._end()


class InertHook(_NoScript):
    """In the place of a hook that was copied or pickled."""

    def __call__(self, *args: Any) -> None:
        return None


@graph_constant
def _exporting() -> bool:
    """Whether torch.export traces; asked outside of the graph.

    Up to PyTorch 2.12, Dynamo takes is_exporting() for True under torch.compile as well: a compiled model
    would keep no features.
    """
    return torch.compiler.is_exporting()


def in_backward() -> bool:
    """Whether autograd runs a backward: a checkpoint then runs layers again."""
    return bool(torch._C._current_graph_task_id() != -1)


def hides_gradient(module: nn.Module) -> bool:
    """Whether hooks on the module see the gradient of its output without what comes through a tap.

    PyTorch wraps the output for them after the forward hooks have seen it.
    """
    full = module._is_full_backward_hook is True and module._backward_hooks
    everywhere = (
        torch_module._global_is_full_backward_hook is True and torch_module._global_backward_hooks
    )
    before = module._backward_pre_hooks or torch_module._global_backward_pre_hooks
    return bool(full or everywhere or before)

# SPDX-License-Identifier: Apache-2.0
"""Collects the outputs of chosen layers at each forward pass, from outside of the model."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Selector = Iterable[str | nn.Module] | Callable[[str, nn.Module], bool]


class FeatureTaps:
    """Forward hooks that keep the hidden outputs Z_j of the last forward pass.

    Args:
        model: Any module.
        layers: Names as in ``model.named_modules()``, or modules of the model, in the order the
            features shall have; or a predicate ``f(name, module) -> bool``.

    Activation checkpointing (use_reentrant=False) and torch.compile see the hooks as part of the model;
    torch.export leaves them out.

    Attributes:
        features: dict from layer name to its last output, in graph. Emptied by :meth:`clear`.

    Raises:
        ValueError: A layer is not in the model (the nearest name is suggested), none is chosen, or
            one is chosen twice.
        TypeError: A tapped layer returned something else than a tensor.
        RuntimeError: A tapped layer runs inside a reentrant checkpoint; raised in the backward.

    Example:
        >>> taps = FeatureTaps(model, ["features.6", "features.13"])
        >>> logits = model(x)
        >>> list(taps.features)
        ['features.6', 'features.13']
    """

    def __init__(self, model: nn.Module, layers: Selector) -> None:
        self.names = _layer_names(model, layers)
        self.features: dict[str, Tensor] = {}
        modules = dict(model.named_modules())
        self._handles = [
            modules[name].register_forward_hook(self._keeper(name)) for name in self.names
        ]

    def _keeper(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if torch.compiler.is_exporting():
                return  # an exported model is the classifier alone
            if not torch.compiler.is_compiling() and _in_backward():
                self._check_recomputed(name)
                return
            if not isinstance(output, Tensor):
                raise TypeError(
                    f"FeatureTaps: layer '{name}' returned {type(output).__name__}, not a tensor: "
                    "tap one of its submodules."
                )
            self.features[name] = output

        return keep

    def _check_recomputed(self, name: str) -> None:
        """A checkpointed layer runs again in the backward: what is kept stays, if it has a graph."""
        kept = self.features.get(name)
        if kept is not None and not kept.requires_grad:
            raise RuntimeError(
                f"FeatureTaps: layer '{name}' runs inside checkpoint(use_reentrant=True), which keeps no "
                "graph in the forward: its BiDO terms would have no gradient. Pass use_reentrant=False."
            )

    def clear(self) -> None:
        """Drops the kept features, and with them the memory of their graph."""
        self.features = {}

    def remove(self) -> None:
        """Takes the hooks off the model and drops the features."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.clear()

    def __enter__(self) -> FeatureTaps:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def _in_backward() -> bool:
    return bool(torch._C._current_graph_task_id() != -1)


def _layer_names(model: nn.Module, layers: Selector) -> list[str]:
    modules = dict(model.named_modules())
    if callable(layers):
        names = [name for name, module in modules.items() if layers(name, module)]
        if not names:
            raise ValueError("FeatureTaps: the predicate chose no layer of the model.")
        return names
    if isinstance(layers, str):
        raise ValueError(f"FeatureTaps: layers must be a list of names, got the string {layers!r}.")
    names = [_name_of(layer, modules) for layer in layers]
    if not names:
        raise ValueError("FeatureTaps: layers is empty; name at least one layer of the model.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"FeatureTaps: layer(s) chosen twice: {', '.join(twice)}.")
    return names


def _name_of(layer: str | nn.Module, modules: dict[str, nn.Module]) -> str:
    if isinstance(layer, nn.Module):
        for name, module in modules.items():
            if module is layer:
                return name
        raise ValueError(
            f"FeatureTaps: the module {type(layer).__name__} is not part of the model."
        )
    if layer in modules and layer:
        return layer
    known = [name for name in modules if name]
    near = difflib.get_close_matches(str(layer), known, n=3, cutoff=0.4)
    hint = (
        f"did you mean {', '.join(near)}?"
        if near
        else f"it has, for example, {', '.join(known[:5])}."
    )
    raise ValueError(f"FeatureTaps: the model has no layer '{layer}'; {hint}")

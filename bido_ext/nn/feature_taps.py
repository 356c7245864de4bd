# SPDX-License-Identifier: Apache-2.0
"""Collects the outputs of chosen layers at each forward pass, from outside of the model."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bido_ext.ops._graph_constant import graph_constant

Selector = Iterable[str | nn.Module] | Callable[[str, nn.Module], bool]


class FeatureTaps:
    """Forward hooks that keep the hidden outputs Z_j of the last forward pass.

    Args:
        model: Any module.
        layers: Names as in ``model.named_modules()``, or modules of the model, in the order the
            features shall have; or a predicate ``f(name, module) -> bool``.

    A layer that does not run in a forward pass of the model (early exit, LayerDrop, an ``out_proj`` that is
    only read) has no features then; the first time, a warning names it. Where parts of the model are called
    without the model itself, features stay until the layer runs again or :meth:`clear` is called.

    An operation in place on a layer's output (``ReLU(inplace=True)``, ``out += identity``) changes what is
    kept: the features are then those after the operation, and a warning names the layer once. Tap the
    module that changes it, or make that one not in place.

    Activation checkpointing (use_reentrant=False) and torch.compile see the hooks as part of the model;
    torch.export leaves them out. Set taps before the first call of a compiled model: later hooks may not
    be seen. A compiled step does not give the two warnings. Copies of the model (copy.deepcopy, pickle)
    are not tapped.

    Attributes:
        features: dict from layer name to its last output, in graph, in the order of the layers; made anew
            at each access. Emptied by :meth:`clear` and when the model's forward begins.

    Raises:
        ValueError: A layer is not in the model (the nearest name is suggested), none is chosen, or
            one is chosen twice.
        TypeError: layers is none of the above, or a tapped layer returned something else than a tensor.
        RuntimeError: A tapped layer runs inside a reentrant checkpoint; raised in the backward.

    Example:
        >>> taps = FeatureTaps(model, ["features.6", "features.13"])
        >>> logits = model(x)
        >>> list(taps.features)
        ['features.6', 'features.13']
    """

    def __init__(self, model: nn.Module, layers: Selector) -> None:
        self.names = _layer_names(model, layers)
        self._kept: dict[str, Tensor] = {}
        self._versions: dict[str, int | None] = {}
        self._begun = False
        self._warned: set[str] = set()
        modules = dict(model.named_modules())
        self._handles = [model.register_forward_pre_hook(_Begin(self))]
        self._handles += [
            modules[name].register_forward_hook(_Keep(self, name)) for name in self.names
        ]

    @property
    def features(self) -> dict[str, Tensor]:
        """The outputs of the layers that ran in the last forward pass."""
        if not torch.compiler.is_compiling():
            self._warn_of_missing()
            self._warn_of_changed()
        return {name: self._kept[name] for name in self.names if name in self._kept}

    def _keep(self, name: str, output: Any) -> None:
        if not torch.compiler.is_compiling() and _in_backward():
            self._check_recomputed(name)
            return
        if not isinstance(output, Tensor):
            raise TypeError(
                f"FeatureTaps: layer '{name}' returned {type(output).__name__}, not a tensor: "
                "tap one of its submodules."
            )
        self._kept[name] = output
        self._versions[name] = _version(output)

    def _check_recomputed(self, name: str) -> None:
        """A checkpointed layer runs again in the backward: what is kept stays, if it has a graph."""
        kept = self._kept.get(name)
        if kept is not None and not kept.requires_grad:
            raise RuntimeError(
                f"FeatureTaps: layer '{name}' runs inside checkpoint(use_reentrant=True), which keeps no "
                "graph in the forward: its BiDO terms would have no gradient. Pass use_reentrant=False."
            )

    def _begin(self) -> None:
        # A checkpoint of the whole model runs it again in the backward.
        if torch.compiler.is_compiling() or not _in_backward():
            self.clear()
            self._begun = True

    def _warn_of_missing(self) -> None:
        if not self._begun and not self._kept:
            return
        missing = [name for name in self.names if name not in self._kept]
        self._warn_once("missing", missing, "did not run in the last forward pass: no features.")

    def _warn_of_changed(self) -> None:
        changed = [name for name, z in self._kept.items() if _changed(z, self._versions[name])]
        self._warn_once(
            "changed",
            changed,
            "changed in place after it returned: its features are those after the operation that changed it.",
        )

    def _warn_once(self, kind: str, names: list[str], what: str) -> None:
        if names and kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(
                f"FeatureTaps: layer(s) {', '.join(names)}: {what} Said once.", stacklevel=4
            )

    def clear(self) -> None:
        """Drops the kept features, and with them the memory of their graph."""
        self._kept = {}
        self._versions = {}
        self._begun = False

    def remove(self) -> None:
        """Takes the hooks off the model and drops the features."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.clear()

    def __getstate__(self) -> dict[str, Any]:
        """A copy is on no model, and what a graph made cannot be copied."""
        return {**vars(self), "_kept": {}, "_versions": {}, "_begun": False, "_handles": []}

    def __enter__(self) -> FeatureTaps:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


class _Hook:
    """A hook of the model at hand; copies of the model get one that does nothing."""

    def __init__(self, taps: FeatureTaps) -> None:
        self.taps = taps

    def __reduce__(self) -> tuple[Any, ...]:
        return _InertHook, ()


class _Begin(_Hook):
    """Before the model's forward."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        if not _exporting():
            self.taps._begin()


class _Keep(_Hook):
    """After a layer's forward."""

    def __init__(self, taps: FeatureTaps, name: str) -> None:
        super().__init__(taps)
        self.name = name

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if not _exporting():  # an exported model is the classifier alone
            self.taps._keep(self.name, output)


class _InertHook:
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


def _in_backward() -> bool:
    return bool(torch._C._current_graph_task_id() != -1)


def _version(z: Tensor) -> int | None:
    """Counts the operations in place on z; None where nothing counts."""
    if torch.compiler.is_compiling() or z.is_inference():
        return None
    return z._version


def _changed(z: Tensor, version: int | None) -> bool:
    return version is not None and _version(z) != version


def _layer_names(model: nn.Module, layers: Selector) -> list[str]:
    modules = dict(model.named_modules())
    _check_kind(layers)
    if callable(layers):
        names = [name for name, module in modules.items() if layers(name, module)]
        if not names:
            raise ValueError("FeatureTaps: the predicate chose no layer of the model.")
        return names
    names = [_name_of(layer, modules) for layer in layers]
    if not names:
        raise ValueError("FeatureTaps: layers is empty; name at least one layer of the model.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"FeatureTaps: layer(s) chosen twice: {', '.join(twice)}.")
    return names


def _check_kind(layers: object) -> None:
    if isinstance(layers, str):
        raise ValueError(f"FeatureTaps: layers must be a list of names, got the string {layers!r}.")
    # A module is callable, and some can be iterated; neither is meant.
    if isinstance(layers, nn.Module) or not (callable(layers) or isinstance(layers, Iterable)):
        raise TypeError(
            "FeatureTaps: layers must be a list of names or modules, or a predicate f(name, module), "
            f"got {type(layers).__name__}."
        )


def _name_of(layer: str | nn.Module, modules: dict[str, nn.Module]) -> str:
    if isinstance(layer, nn.Module):
        for name, module in modules.items():
            if module is layer:
                return name
        raise ValueError(
            f"FeatureTaps: the module {type(layer).__name__} is not part of the model."
        )
    if not isinstance(layer, str):
        raise TypeError(
            "FeatureTaps: layers must hold names or modules of the model, "
            f"got {type(layer).__name__} in it."
        )
    if layer in modules and layer:
        return layer
    known = [name for name in modules if name]
    near = difflib.get_close_matches(layer, known, n=3, cutoff=0.4)
    hint = (
        f"did you mean {', '.join(near)}?"
        if near
        else f"it has, for example, {', '.join(known[:5])}."
    )
    raise ValueError(f"FeatureTaps: the model has no layer '{layer}'; {hint}")

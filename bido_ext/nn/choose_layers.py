# SPDX-License-Identifier: Apache-2.0
"""Which layers of a model are meant, by name, module or predicate, and what to pick of their outputs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from torch import nn

from bido_ext.nn.pick_output import Pick, check_pick

Layer: TypeAlias = str | nn.Module
Selector: TypeAlias = Mapping[Layer, Pick] | Iterable[Layer] | Callable[[str, nn.Module], bool]


def choose_layers(model: nn.Module, layers: Selector) -> dict[str, Pick]:
    """Names of the layers in the order asked for, and what to pick of each output (None: it is a tensor).

    Raises:
        ValueError: A layer is not in the model (the nearest name is suggested), none is chosen, or one
            is chosen twice.
        TypeError: layers is none of what is allowed.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"FeatureTaps: model must be a torch.nn.Module, got {type(model).__name__}."
        )
    modules = dict(model.named_modules())
    _check_kind(layers)
    if isinstance(layers, Mapping):
        named = [(_name_of(layer, modules, model), pick) for layer, pick in layers.items()]
        for name, pick in named:
            check_pick(pick, name)
    elif callable(layers):
        named = [(name, None) for name, module in modules.items() if layers(name, module)]
        if not named:
            raise ValueError("FeatureTaps: the predicate chose no layer of the model.")
    else:
        named = [(_name_of(layer, modules, model), None) for layer in layers]
    names = [name for name, _ in named]
    if not names:
        raise ValueError("FeatureTaps: layers is empty; name at least one layer of the model.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"FeatureTaps: layer(s) chosen twice: {', '.join(twice)}.")
    return dict(named)


def _check_kind(layers: object) -> None:
    if isinstance(layers, str):
        raise ValueError(f"FeatureTaps: layers must be a list of names, got the string {layers!r}.")
    # A module is callable, and some can be iterated; neither is meant.
    if isinstance(layers, nn.Module) or not (callable(layers) or isinstance(layers, Iterable)):
        raise TypeError(
            "FeatureTaps: layers must be a list of names or modules, or a predicate f(name, module), or a "
            f"dict from names to what to pick of the output, got {type(layers).__name__}."
        )


def _name_of(layer: object, modules: dict[str, nn.Module], model: nn.Module) -> str:
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
    if same := dict(model.named_modules(remove_duplicate=False)).get(layer if layer else " "):
        raise ValueError(
            f"FeatureTaps: layer '{layer}' is the same module as '{_name_of(same, modules, model)}', which the "
            "model runs more than once: name that. Its last output is kept."
        )
    known = [name for name in modules if name]
    near = difflib.get_close_matches(layer, known, n=3, cutoff=0.4)
    hint = (
        f"did you mean {', '.join(near)}?"
        if near
        else f"it has, for example, {', '.join(known[:5])}."
    )
    raise ValueError(f"FeatureTaps: the model has no layer '{layer}'; {hint}")

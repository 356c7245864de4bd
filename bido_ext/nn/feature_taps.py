# SPDX-License-Identifier: Apache-2.0
"""Collects the outputs of chosen layers at each forward pass, from outside of the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bido_ext.nn.choose_layers import Selector, choose_layers
from bido_ext.nn.pick_output import pick_output, time_first
from bido_ext.nn.tap_hooks import Begin, End, Keep, hides_gradient, in_backward
from bido_ext.nn.warn_caller import warn_caller


class FeatureTaps:
    """Keeps the outputs Z_j of chosen layers at each forward pass. The model does not change.

    Args:
        model: Any module.
        layers: Which layers to tap, one of: names as in ``model.named_modules()``; modules of the model; a
            function ``f(name, module) -> bool``; or a dict from layers to the part of their output to keep.
            The dict is for layers whose output is not a tensor. A part is an index, a key, the name of an
            attribute, a function of the output, or None for the output itself. It must be a tensor (n, ...)
            whose first dimension counts samples. For a recurrent layer with batch_first=False use
            ``lambda out: out[0].transpose(0, 1)``. Names and modules keep their order in ``features``.

    **Layers that do not run** in a forward pass (early exit, LayerDrop, an ``out_proj`` that is only read)
    have no features; a warning names each of them once. If you call parts of the model instead of the model,
    the first tapped layer that runs drops the features of an earlier whole forward. Features of parts stay
    until the layer runs again or you call :meth:`clear`.

    **In-place operations** on a layer's output (``ReLU(inplace=True)``, ``out += identity``) also change the
    features; a warning names the layer once. Tap the module that changes the output, or make it not in place.

    **Full backward hooks** on a tapped layer (``register_full_backward_hook``, Opacus' ``grad_sample``) do not
    see the gradient that comes through the tap, although ``p.grad`` has it; a warning names the layer once.
    Tap the module after it, or put ``nn.Sequential(layer)`` in its place and tap that.

    **Tools.** Activation checkpointing (use_reentrant=False) and torch.compile treat the hooks as part of the
    model. Set taps before you call a compiled model for the first time; otherwise call
    ``torch._dynamo.reset()`` after setting them. Compiled steps give no warnings. torch.export ignores taps.
    Call :meth:`remove` before torch.jit.script and torch.fx. Copies of the model (copy.deepcopy, pickle) are
    not tapped.

    Attributes:
        features: dict from layer name to its last output, with its graph, in the order of the layers. It is
            emptied by :meth:`clear`, and when a forward of the model begins.

    Raises:
        ValueError: A layer is not in the model (the message suggests the nearest name), no layer is chosen,
            or a layer is chosen twice.
        TypeError: layers is none of the above, or the chosen part of an output is not a tensor.
        RuntimeError: A tapped layer runs inside a reentrant checkpoint; raised in the backward.

    Example:
        >>> taps = FeatureTaps(model, ["features.6", "features.13"])
        >>> logits = model(x)
        >>> list(taps.features)
        ['features.6', 'features.13']
        >>> taps = FeatureTaps(model, {"encoder": lambda out: out.last_hidden_state, "rnn": 0})
    """

    def __init__(self, model: nn.Module, layers: Selector) -> None:
        self._picks = choose_layers(model, layers)
        self.names = list(self._picks)
        self._warned: set[str] = set()
        self.clear()
        modules = dict(model.named_modules())
        self._tapped = {name: modules[name] for name in self.names}
        self._handles = [model.register_forward_pre_hook(Begin(self))]
        self._handles += [
            module.register_forward_hook(Keep(self, name)) for name, module in self._tapped.items()
        ]
        # Last, since the model itself may be tapped.
        self._handles.append(model.register_forward_hook(End(self)))

    @property
    def features(self) -> dict[str, Tensor]:
        """The outputs of the layers that ran in the last forward pass."""
        if not torch.compiler.is_compiling():
            self._warn_of_missing()
            self._warn_of_changed()
            self._warn_of_hidden()
            self._warn_of_time()
        return {name: self._kept[name] for name in self.names if name in self._kept}

    def _begin(self) -> None:
        # A checkpoint of the whole model runs it again in the backward.
        if torch.compiler.is_compiling() or not in_backward():
            self.clear()
            self._begun = self._inside = True

    def _keep(self, name: str, output: Any) -> None:
        # Also in the backward: a checkpoint counts what the second run saves, and so what picking saves.
        picked = pick_output(output, self._picks[name], name)
        if not torch.compiler.is_compiling() and in_backward():
            self._check_recomputed(name)
            return
        if self._begun and not self._inside:
            self.clear()  # parts of the model run: what the whole model left is of an older forward
        self._kept[name] = picked
        self._versions[name] = _version(picked)

    def _end(self) -> None:
        self._inside = False

    def _check_recomputed(self, name: str) -> None:
        """A checkpointed layer runs again in the backward: what is kept stays, if it has a graph."""
        kept = self._kept.get(name)
        if kept is not None and not kept.requires_grad:
            raise RuntimeError(
                f"FeatureTaps: layer '{name}' runs inside checkpoint(use_reentrant=True), which keeps no "
                "graph in the forward: its BiDO terms would have no gradient. Pass use_reentrant=False."
            )

    def _warn_of_missing(self) -> None:
        if self._begun or self._kept:
            missing = [name for name in self.names if name not in self._kept]
            self._warn_once(
                "missing", missing, "did not run in the last forward pass: no features."
            )

    def _warn_of_changed(self) -> None:
        changed = [name for name, z in self._kept.items() if _changed(z, self._versions[name])]
        self._warn_once(
            "changed",
            changed,
            "changed in place after it returned: its features are those after the operation that changed it.",
        )

    def _warn_of_hidden(self) -> None:
        hidden = (
            name
            for name, z in self._kept.items()
            if z.requires_grad and hides_gradient(self._tapped[name])
        )
        self._warn_once(
            "hidden",
            hidden,
            "full backward hooks (register_full_backward_hook, Opacus' grad_sample) do not see the gradient "
            "that comes through the tap: p.grad has the BiDO term, what the hooks compute has not. Tap the "
            "module after it, or put nn.Sequential(layer) in its place and tap that.",
        )

    def _warn_of_time(self) -> None:
        turned = [
            name
            for name, z in self._kept.items()
            if self._tapped and time_first(self._tapped[name], self._picks[name], z)
        ]
        self._warn_once(
            "time",
            turned,
            "the first dimension of what is picked counts times or layers, not samples: batch_first=False, or "
            "the last states of a recurrent layer. Pick for example lambda out: out[0].transpose(0, 1), or "
            "lambda out: out[1][-1].",
        )

    def _warn_once(self, kind: str, names: Iterable[str], what: str) -> None:
        if kind not in self._warned and (layers := ", ".join(names)):
            self._warned.add(kind)
            warn_caller(f"FeatureTaps: layer(s) {layers}: {what} Said once.")

    def __repr__(self) -> str:
        return f"FeatureTaps({', '.join(map(repr, self.names))})"

    def clear(self) -> None:
        """Drops the kept features, and with them the memory of their graph."""
        self._kept: dict[str, Tensor] = {}
        self._versions: dict[str, int | None] = {}
        self._begun = self._inside = False

    def remove(self) -> None:
        """Takes the hooks off the model and drops the features."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._tapped = [], {}
        self.clear()

    def __getstate__(self) -> dict[str, Any]:
        """A copy is on no model, and what a graph made cannot be copied; nor can every function."""
        nothing: dict[str, Any] = {
            "_kept": {}, "_versions": {}, "_begun": False, "_inside": False, "_handles": [], "_tapped": {},
            "_picks": {},
        }  # fmt: skip
        return {**vars(self), **nothing}

    def __enter__(self) -> FeatureTaps:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def _version(z: Tensor) -> int | None:
    """Counts the operations in place on z; None where nothing counts."""
    if torch.compiler.is_compiling() or z.is_inference():
        return None
    return z._version


def _changed(z: Tensor, version: int | None) -> bool:
    return version is not None and _version(z) != version

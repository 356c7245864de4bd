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
    """Forward hooks that keep the hidden outputs Z_j of the last forward pass.

    Args:
        model: Any module.
        layers: Names as in ``model.named_modules()``, or modules of the model, in the order the
            features shall have; or a predicate ``f(name, module) -> bool``; or a dict from layers to
            what to pick of their outputs, where these are no tensors: an index, a key or attribute, a
            function of the output, or None. Picked is a tensor (n, ...) whose first dimension counts
            samples; of a recurrent layer with batch_first=False, ``lambda out: out[0].transpose(0, 1)``.

    A layer that does not run in a forward pass of the model (early exit, LayerDrop, an ``out_proj`` that is
    only read) has no features then; the first time, a warning names it. Where parts of the model are called
    without the model itself, features of a forward of the whole model are dropped at the first layer that
    runs; those of parts stay until the layer runs again or :meth:`clear` is called.

    An operation in place on a layer's output (``ReLU(inplace=True)``, ``out += identity``) changes what is
    kept: the features are then those after the operation, and a warning names the layer once. Tap the
    module that changes it, or make that one not in place.

    Full backward hooks on a tapped layer (``register_full_backward_hook``, Opacus' ``grad_sample``) do not see
    the gradient that comes through the tap, although ``p.grad`` has it; a warning names the layer once. Tap
    the module after it, or ``nn.Sequential(layer)`` in its place.

    Activation checkpointing (use_reentrant=False) and torch.compile see the hooks as part of the model;
    torch.export leaves them out; torch.jit.script and torch.fx want taps.remove() first. Set taps before the
    first call of a compiled model: later hooks are not seen, unless torch._dynamo.reset() comes after them.
    A compiled step gives no warnings. Copies of the model (copy.deepcopy, pickle) are not tapped.

    Attributes:
        features: dict from layer name to its last output, in graph, in the order of the layers; made anew
            at each access. Emptied by :meth:`clear` and when the model's forward begins.

    Raises:
        ValueError: A layer is not in the model (the nearest name is suggested), none is chosen, or
            one is chosen twice.
        TypeError: layers is none of the above, or what is picked of a layer's output is no tensor.
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

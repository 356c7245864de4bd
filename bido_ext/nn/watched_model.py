# SPDX-License-Identifier: Apache-2.0
"""A model that is run for its layers' features alone: in evaluation mode, as it was afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from bido_ext.nn.choose_layers import Selector, choose_layers
from bido_ext.nn.default_layers import candidate_layers, layers_with_features
from bido_ext.nn.feature_taps import FeatureTaps
from bido_ext.nn.pick_output import Pick
from bido_ext.nn.step_arguments import describe
from bido_ext.ops._validate import FLOATS, check_features, check_same_samples

Call = Callable[[nn.Module, Any], object]


class WatchedModel:
    """A model and how it is called.

    Args:
        model: Any module; of a compiled one, or one wrapped for DistributedDataParallel, the module
            inside, since hooks of the former are not always seen and the latter exchanges buffers.
        call: Runs the model on a batch; default: :func:`call_model`.
    """

    def __init__(self, model: nn.Module, call: Call | None) -> None:
        self.model = unwrapped(model)
        self._call = call or call_model
        self._picks: dict[str, Pick] = {}

    def names_of(self, layers: Selector) -> list[str]:
        """The names of chosen layers; what to pick of their outputs is kept.

        Raises:
            TypeError, ValueError: As FeatureTaps.
        """
        picks = choose_layers(self.model, layers)
        self._picks |= picks
        return list(picks)

    def default_layers(self, batch: Any) -> list[str]:
        """The layers that are looked at if nobody chooses; one forward pass.

        Raises:
            ValueError: There is none.
        """
        names = candidate_layers(self.model)
        with in_evaluation_mode(self.model):
            found = layers_with_features(self.model, names, lambda: self._call(self.model, batch))
        if not found:
            raise ValueError(
                f"layers: no child of {type(self.model).__name__} returns a tensor of features; "
                "name layers, or give a predicate."
            )
        return found

    def features(self, names: Sequence[str], batch: Any, minimum_rows: int) -> dict[str, Tensor]:
        """The outputs of the layers, (n, d) each with the same n, in the order of ``names``.

        Raises:
            TypeError, ValueError: An output is missing or cannot be compared; the layer is named.
        """
        picks = {name: self._picks.get(name) for name in names}
        with FeatureTaps(self.model, picks) as taps, in_evaluation_mode(self.model):
            self._call(self.model, batch)
            kept = taps.features
        if missing := [name for name in names if name not in kept]:
            raise ValueError(
                f"layer(s) {', '.join(missing)} did not run in the forward pass: leave them out."
            )
        flat: dict[str, Tensor] = {}
        for name, z in kept.items():
            what = f"the output of layer '{name}'"
            if z.dtype not in FLOATS or z.dim() < 1:
                raise TypeError(
                    f"{what} must be a floating-point batch (n, ...), got {describe(z)}."
                )
            if not len(z):
                raise ValueError(f"{what} has no samples: the batch is empty.")
            flat[name] = check_features(z.reshape(z.shape[0], -1), what, 1)
            first = names[0]
            check_same_samples(flat[first], flat[name], f"the output of layer '{first}'", what)
        n = flat[names[0]].shape[0]
        if n < minimum_rows:
            raise ValueError(
                f"the batch has {n} sample(s), at least {minimum_rows} are needed: give the DataLoader "
                "drop_last=True or another batch_size."
            )
        return flat


def call_model(model: nn.Module, batch: Any) -> object:
    """The model of a batch as DataLoaders give it: a tensor, a mapping of arguments, (input, labels, ...)."""
    if isinstance(batch, Tensor):
        return model(batch)
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], Tensor):
        return model(batch[0])
    raise TypeError(
        "batch must be a tensor, a mapping of keyword arguments, or a tuple or list that begins with a "
        f"tensor, got {type(batch).__name__}: give call=lambda model, batch: ..."
    )


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside of torch.compile and DistributedDataParallel."""
    while True:
        inner = model.__dict__.get("_modules", {}).get("_orig_mod")
        if inner is None and isinstance(model, nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


@contextlib.contextmanager
def in_evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True

# SPDX-License-Identifier: Apache-2.0
"""Checks on what BiDOLoss is given in a step; each error names the argument or the layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from bido_ext.ops._validate import (
    FLOATS,
    UNSIGNED,
    as_number,
    check_features,
    check_labels,
    check_same_samples,
    check_strided,
    is_labels,
)

#: Taps that saw no forward pass: it did not run, or it ran in a graph that was made before them.
EMPTY = (
    "features is empty: run the model's forward pass before the loss, with FeatureTaps on it. If it did run "
    "and the model is compiled: set the taps before its first call, or call torch._dynamo.reset() after "
    "setting them, because a graph that exists does not see later hooks."
)


def check_step(
    x: object, features: object, y: object, num_classes: int | None, minimum_rows: int
) -> dict[str, Tensor]:
    """Checks input, hidden features and labels of one batch.

    Args:
        x: Network input (n, ...).
        features: Mapping of layer name to (n, ...), or a sequence of such tensors.
        y: Integer labels (n,) or float targets (n, e).
        minimum_rows: Samples needed: 2 (or one alone, whose terms are 0), or 0 for one rank's part of a
            global batch.

    Returns:
        The features by layer name, (n, d) each.

    Raises:
        TypeError, ValueError: An argument does not fit.
    """
    layers = named_layers(features)
    if not isinstance(x, Tensor) or x.dtype not in FLOATS or x.dim() < 2:
        raise ValueError(
            f"x must be a floating-point batch (n, ...), got {describe(x)}{_batch_instead(x, 'x')}."
        )
    check_strided(x, "x")
    if x.shape[0] == 1:
        minimum_rows = min(minimum_rows, 1)
    check_features(x.flatten(1), "x", minimum_rows)
    _check_targets(y, num_classes)
    check_same_samples(x, y, "x", "y")  # type: ignore[arg-type]
    flat = {}
    for name, z in layers.items():
        what = f"features of layer '{name}'"
        if not isinstance(z, Tensor) or z.dtype not in FLOATS or z.dim() < 2:
            raise ValueError(
                f"{what} must be a floating-point batch (n, ...), got {describe(z)}"
                f"{_batch_instead(z, 'it')}."
            )
        check_strided(z, what)
        flat[name] = check_features(z.flatten(1), what, minimum_rows)
        check_same_samples(x, flat[name], "x", what)
    return flat


def check_weight(value: object, name: str) -> float:
    """A finite number that is not negative."""
    number = as_number(value)
    if number is None:
        raise TypeError(f"{name} must be a number, got {type(value).__name__}.")
    if not 0 <= number < float("inf"):
        raise ValueError(f"{name} must be finite and not negative, got {value}.")
    return number


def describe(value: object) -> str:
    """What was given, for an error."""
    if isinstance(value, Tensor) and value.is_nested:  # its shape cannot be asked for
        return f"a nested {value.dtype} tensor"
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    return type(value).__name__


def _batch_instead(value: object, name: str) -> str:
    """What to do with a tensor that is no batch of features, for an error."""
    if not isinstance(value, Tensor):
        return ""
    if value.is_complex():
        return f": give torch.view_as_real({name})"
    if value.dtype not in FLOATS:
        return (
            f": pixels are {name}.float(); tokens have no distances, give their embeddings instead"
        )
    return f": one number a sample is a column, {name}[:, None]" if value.dim() == 1 else ""


def _check_targets(y: object, num_classes: int | None) -> None:
    if not isinstance(y, Tensor) or not (is_labels(y) or y.dtype in FLOATS):
        hint = ""
        if isinstance(y, Tensor) and y.dtype == torch.bool:
            hint = ": turn boolean labels into integers, y.long(), or several at once (n, e) into y.float()"
        elif isinstance(y, Tensor) and y.dtype in UNSIGNED:
            hint = ": turn labels into y.long()"
        raise TypeError(
            f"y must be integer labels (n,) or float targets (n, e), got {describe(y)}{hint}."
        )
    check_strided(y, "y")
    if is_labels(y):
        check_labels(y, "y", num_classes)
    elif y.dim() != 2:
        way = "targets must be (n, e): y.flatten(1)" if y.dim() > 2 else (
            "class labels must be integers (n,): y.long(); targets of one number must be (n, 1): y[:, None]"
        )  # fmt: skip
        raise ValueError(f"y is floating-point with shape {tuple(y.shape)}: {way}.")


def named_layers(features: object) -> dict[str, Tensor]:
    if isinstance(features, Mapping):
        named = {str(name): z for name, z in features.items()}
        if len(named) < len(features):
            raise ValueError(
                f"features has two layers of the same name: {sorted(map(str, features))}."
            )
    elif isinstance(features, Sequence) and not isinstance(features, (str, Tensor)):
        named = {str(i): z for i, z in enumerate(features)}
    else:
        way = ": give taps.features" if hasattr(features, "features") else ""
        raise TypeError(
            "features must be a dict of layer name to tensor or a list of tensors, got "
            f"{describe(features)}{way}."
        )
    if not named:
        raise ValueError(EMPTY)
    return named


def tensors_of(features: object) -> Iterable[Tensor]:
    """What of the features can be looked at before they are checked."""
    if isinstance(features, Mapping):
        return features.values()
    return features if isinstance(features, Sequence) else ()

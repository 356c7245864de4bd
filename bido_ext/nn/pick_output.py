# SPDX-License-Identifier: Apache-2.0
"""The tensor that is meant of a layer's output: of tuples and dicts, recurrent layers, Hugging Face's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

#: An index into a tuple, a key or attribute, or a function of the output; None: the output is the tensor.
Pick: TypeAlias = int | str | Callable[[Any], Any] | None


def check_pick(pick: object, name: str) -> None:
    """One of what is allowed for a layer."""
    if isinstance(pick, bool) or not (
        pick is None or isinstance(pick, (int, str)) or callable(pick)
    ):
        raise TypeError(
            f"FeatureTaps: what to pick of layer '{name}' must be an index, a key, a function of the output or "
            f"None, got {type(pick).__name__}."
        )


def pick_output(output: Any, pick: Pick, name: str) -> Tensor:
    """The tensor of a layer's output.

    Raises:
        TypeError: It cannot be picked, or is none.
    """
    if pick is None:
        picked = output
    elif torch.compiler.is_compiling():
        picked = _picked(output, pick)
    else:
        try:
            picked = _picked(output, pick)
        except (LookupError, AttributeError, TypeError) as error:
            raise TypeError(
                f"FeatureTaps: layer '{name}' returned {describe(output)}, of which {_text(pick)} cannot be "
                f"picked ({type(error).__name__}: {error})."
            ) from error
    if not isinstance(picked, Tensor):
        raise _no_tensor(output, picked, pick, name)
    return picked


def _picked(output: Any, pick: Any) -> Any:
    if callable(pick):
        return pick(output)
    if isinstance(pick, str) and not isinstance(output, Mapping):
        return getattr(output, pick)
    return output[pick]


def _no_tensor(output: Any, picked: Any, pick: Pick, name: str) -> TypeError:
    if type(picked).__module__.startswith("torch.fx"):
        return TypeError(
            f"FeatureTaps: torch.fx traces the model and gave layer '{name}' a {type(picked).__name__}, of "
            "which no features are kept. Call taps.remove() before symbolic_trace, and tap the traced model."
        )
    if pick is None:
        return TypeError(
            f"FeatureTaps: layer '{name}' returned {describe(output)}, not a tensor. Say what to pick, as in "
            f'FeatureTaps(model, {{"{name}": {_example(output)}}}), or tap a module that returns a tensor.'
        )
    return TypeError(
        f"FeatureTaps: {_text(pick)} of layer '{name}' is {describe(picked)}, not a tensor: pick a tensor of "
        "its output, (n, ...)."
    )


def time_first(module: nn.Module, pick: Pick, z: Tensor) -> bool:
    """Whether the first dimension of what was picked counts times or layers, as far as modules tell."""
    if callable(pick) or z.dim() != 3:
        return False
    if isinstance(module, nn.RNNBase):
        return (
            pick in (1, -1) or not module.batch_first
        )  # the last states are (layers, n, d) in any case
    return pick in (0, None) and getattr(module, "batch_first", None) is False


def describe(output: Any) -> str:
    """What a layer returned, for an error."""
    if isinstance(output, Mapping):
        return f"{type(output).__name__} with the keys {', '.join(map(str, output))}"
    if isinstance(output, (tuple, list)):
        inside = ", ".join(type(part).__name__ for part in output)
        return f"{type(output).__name__} of {len(output)} ({inside})"
    return type(output).__name__


def _example(output: Any) -> str:
    if isinstance(output, Mapping) and output:
        return f'"{next(iter(output))}"'
    return "0" if isinstance(output, (tuple, list)) else "lambda out: out.last_hidden_state"


def _text(pick: Pick) -> str:
    return "what the function picks" if callable(pick) else repr(pick)

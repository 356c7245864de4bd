# SPDX-License-Identifier: Apache-2.0
"""The outputs of all micro-batches as one, of which a task loss of any kind gives the gradient.

A task loss is then what it is on the whole batch, whatever it divides by: class weights, ignored labels, a
sum, or samples against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class WholeOutputs(NamedTuple):
    """What a model returned for all samples.

    Attributes:
        leaves: Tensors (n, ...), and what else was in the output.
        spec: How the output holds them.
    """

    leaves: list[Any]
    spec: Any


def put_together(parts: Sequence[Any], counts: Sequence[int]) -> WholeOutputs:
    """The outputs of micro-batches with ``counts`` samples.

    Raises:
        TypeError: Something of an output belongs to no sample.
    """
    flat = [pytree.tree_flatten(part) for part in parts]
    spec = flat[0][1]
    if any(other != spec for _, other in flat):
        raise TypeError(
            "MicroBatchedBiDO: the model's outputs of two micro-batches differ in kind."
        )
    columns = zip(*(leaves for leaves, _ in flat), strict=True)
    return WholeOutputs([_joined(column, counts) for column in columns], spec)


def _joined(column: Sequence[Any], counts: Sequence[int]) -> Any:
    first = column[0]
    if all(isinstance(t, Tensor) for t in column):
        if all(t.dim() and t.shape[0] == n for t, n in zip(column, counts, strict=True)):
            return torch.cat(list(column))
        what = f"a tensor of shape {tuple(first.shape)}"
    else:
        what = type(first).__name__
        plain = isinstance(first, (type(None), bool, int, float, str))
        if plain and all(other == first for other in column):
            return first
    raise TypeError(
        f"MicroBatchedBiDO: the model's output has {what} in it, for {counts[0]} samples: the task loss is "
        "taken of the outputs of all samples, so the model has to return tensors (n, ...), alone or in tuples "
        "and dicts. A loss belongs into task_loss."
    )


def is_differentiable(leaf: Any) -> bool:
    """Whether a gradient can go to it."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def task_gradients(
    outputs: WholeOutputs,
    y: Tensor,
    task_loss: Callable[[Any, Tensor], Tensor],
    share: float,
    scale: float | Tensor,
) -> tuple[Tensor, list[Tensor | None]]:
    """The task loss of all samples times ``share``, and the gradient of each leaf times ``scale`` too.

    Parameters of the loss itself get theirs as in any backward.

    Raises:
        TypeError: task_loss returns no number.
    """
    with torch.enable_grad():
        leaves = [
            t.detach().requires_grad_() if is_differentiable(t) else t for t in outputs.leaves
        ]
        loss = task_loss(pytree.tree_unflatten(leaves, outputs.spec), y)
    if not isinstance(loss, Tensor) or loss.dim():
        what = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(
            f"MicroBatchedBiDO: task_loss must return one number, a 0-d tensor, got {what}: take the mean."
        )
    if loss.requires_grad:
        seed = torch.as_tensor(share * scale, dtype=loss.dtype, device=loss.device)
        torch.autograd.backward([loss], [seed])
    return loss.detach() * share, [t.grad if is_differentiable(t) else None for t in leaves]

# SPDX-License-Identifier: Apache-2.0
"""What BiDOLoss does where the samples are spread over ranks: agree on the batch, exchange, take the terms.

Imported at the first use of ``process_group``: sizes of messages are found at run time, so all of it stays
outside of graphs (torch.compiler.disable), and importing that takes a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from bido_ext.nn.choose_exchange import choose_exchange
from bido_ext.nn.global_terms import global_values_eagerly
from bido_ext.nn.loss_kernels import LossKernels
from bido_ext.nn.ranks_of_loss import RanksOfLoss
from bido_ext.nn.ring_terms import ring_terms_eagerly
from bido_ext.nn.shards import GroupHandle, Shards, agree
from bido_ext.nn.step_arguments import check_step, tensors_of
from bido_ext.nn.tied_over_ranks import learns
from bido_ext.ops._validate import is_labels
from bido_ext.ops.group import Pairs
from bido_ext.ops.kernels import Kernel
from bido_ext.ops.measure import Measure
from bido_ext.ops.plan import allowed_for_gathering


class LossOverRanks(Protocol):
    """What of a BiDOLoss the ranks have to agree on, and what they tell it."""

    _ranks: RanksOfLoss
    _allowed_bytes: int | None
    kernels: LossKernels
    num_classes: int | None
    lambda_x: float
    lambda_y: float
    exchange: str
    workspace_bytes: int | None
    samples: int

    def _settings(self) -> str: ...


def global_step(
    measure: Measure,
    inputs: list[Tensor],
    kernels: list[Kernel],
    num_classes: int | None,
    pairs: Pairs,
    weigh: Callable[[Tensor], Tensor],
    shards: Shards,
    handle: GroupHandle,
    exchange: str,
    workspace_bytes: int | None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The weighted sum, the values of all pairs, and what this rank has seen of the variables."""
    if shards.n < measure.minimum_rows:  # on all ranks
        raise ValueError(
            f"the global batch has {shards.n} samples, at least {measure.minimum_rows} are needed by the "
            f"unbiased estimator of {measure.name}."
        )
    if choose_exchange(exchange, inputs, kernels, shards, handle) == "ring":
        total, values, seen = ring_terms_eagerly(
            measure, inputs, kernels, num_classes, pairs, weigh, shards, handle, workspace_bytes
        )
        # No rank has all features; what it has seen of them serves the guard.
        return total, values, list(seen.unbind())
    values, whole = global_values_eagerly(
        measure, inputs, kernels, num_classes, pairs, shards, handle, workspace_bytes
    )
    return weigh(values), values, list(whole)


@torch.compiler.disable
def agree_on_step(
    loss: LossOverRanks, x: Tensor, features: Mapping[str, Tensor] | Sequence[Tensor], y: Tensor
) -> tuple[dict[str, Tensor], Shards]:
    """The checked layers of this rank and everybody's rows; a refusal is raised on all ranks."""
    handle = loss._ranks.handle
    assert handle is not None
    layers: dict[str, Tensor] = {}
    kernels: list[Kernel] = []
    refusal: Exception | None = None
    try:
        layers = check_step(x, features, y, loss.num_classes, minimum_rows=0)
        kernels = loss.kernels.of(layers)
    except (TypeError, ValueError) as error:
        refusal = error
    own = [] if refusal else [x.flatten(1), *layers.values(), y]
    weighted = torch.is_grad_enabled() and bool(loss.lambda_x or loss.lambda_y)
    wanted = [
        weighted and (t.requires_grad or (learns(k) and not is_labels(t)))
        for t, k in zip(own, kernels, strict=False)
    ]
    if loss._allowed_bytes is None:
        device = str(own[0].device if own else handle.device)
        loss._allowed_bytes = allowed_for_gathering(loss.workspace_bytes, device)
    settings = (
        f"{loss._settings()}, exchange={loss.exchange}, workspace_bytes={loss.workspace_bytes}, "
        f"layers {list(layers)}"
    )
    given = [t for t in (x, y, *tensors_of(features)) if isinstance(t, Tensor)]
    shards = agree(
        handle, own, settings, refusal, wanted, loss._allowed_bytes,
        given[0].device if given else None,
    )  # fmt: skip
    loss.samples = shards.n
    return layers, shards

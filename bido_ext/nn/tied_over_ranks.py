# SPDX-License-Identifier: Apache-2.0
"""Learnable bandwidths where the samples are spread over ranks (bido_ext.ops.learnable_sigma).

Each rank's sigma gets the part of its own rows, times the number of ranks, as parameters of a model do: the
average over ranks is the gradient of the global batch. The parts add up if all ranks take one centre.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bido_ext.nn.shards import GroupHandle, Shards
from bido_ext.ops._validate import is_labels
from bido_ext.ops.kernels import Kernel
from bido_ext.ops.learnable_sigma import learnable


def learns(kernel: Kernel) -> bool:
    """Whether a kernel that the ops make has a bandwidth that wants a gradient."""
    return kernel.kind is not None and learnable(getattr(kernel, "sigma", None))


def tied_rows(
    own: Sequence[Tensor], kernels: Sequence[Kernel], shards: Shards, handle: GroupHandle
) -> list[Tensor]:
    """This rank's rows of each variable, through whose gradients the bandwidths get theirs.

    Every rank has to call it. One message of the widths of the variables that learn, none where none does.
    """
    chosen = [v for v, (t, k) in enumerate(zip(own, kernels, strict=True)) if _learns(t, k)]
    tied = list(own)
    if not chosen or not torch.is_grad_enabled():
        return tied
    sums = torch.cat([own[v].detach().sum(0, dtype=torch.float64) for v in chosen])
    told = sums.new_empty((handle.world_size, len(sums)))
    handle.all_gather(told.view(-1), sums)
    centres = (told.sum(0) / shards.n).split([own[v].shape[1] for v in chosen])
    for v, centre in zip(chosen, centres, strict=True):
        tied[v] = kernels[v].tied(own[v], centre[None])
    return tied


def _learns(t: Tensor, kernel: Kernel) -> bool:
    return not is_labels(t) and learns(kernel)

# SPDX-License-Identifier: Apache-2.0
"""Whether a step gathers features or passes them round the ring; the same answer on all ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bido_ext.nn.shards import GroupHandle, Shards
from bido_ext.ops._validate import is_labels
from bido_ext.ops.kernels import Gaussian, InverseMultiquadric, Kernel
from bido_ext.ops.ring_memory import gathered_bytes

#: Each rank shifts what passes by its own mean, which distances bear and inner products do not.
OF_DISTANCES = (Gaussian, InverseMultiquadric)


@torch.compiler.disable
def choose_exchange(
    asked: str,
    own: Sequence[Tensor],
    kernels: Sequence[Kernel],
    shards: Shards,
    handle: GroupHandle,
) -> str:
    """ "gather" or "ring", from what all ranks know.

    Args:
        asked: "auto", "gather" or "ring".
        own: This rank's variables, last the targets.
        kernels: Of each.

    Raises:
        ValueError: "ring" was asked for and cannot serve; on all ranks.
    """
    if asked == "gather":
        return asked
    hindrance = _hindrance(own, kernels, handle)
    if asked == "ring":
        if hindrance:
            raise ValueError(f'exchange="ring" cannot serve: {hindrance}.')
        return asked
    widths = [(0 if is_labels(t) else t.shape[1], t.element_size()) for t in own]
    fits = gathered_bytes(shards.n, widths) <= shards.allowed_bytes
    return "gather" if fits or hindrance or shards.world_size == 1 else "ring"


def _hindrance(own: Sequence[Tensor], kernels: Sequence[Kernel], handle: GroupHandle) -> str | None:
    """Why features cannot pass round, in words."""
    if any(isinstance(k, Gaussian) and isinstance(k.sigma, str) for k in kernels[:-1]):
        return 'sigma="median" needs the features of all ranks at once; give a number'
    names = ["kernel_x", *["kernel_z"] * (len(kernels) - 2)]
    for name, kernel in zip(names, kernels, strict=False):
        if type(kernel) not in OF_DISTANCES:
            return f"{name} is a {type(kernel).__name__}, and only Gaussian and InverseMultiquadric can"
    if not is_labels(own[-1]) and kernels[-1].kind is None:
        return f"kernel_y is a {type(kernels[-1]).__name__}, which has no form by rows"
    if not handle.can_pass_on(own[0].device):
        return "the gloo backend does not send tensors of a CUDA device from rank to rank; use nccl"
    return None

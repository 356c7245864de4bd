# SPDX-License-Identifier: Apache-2.0
"""Refuses what would be a silent zero or an obscure error: forward mode and torch.func transforms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad


def refuse_transforms(function: str, *tensors: Tensor, vmap: bool = False) -> None:
    """Raises under torch.func.grad, jvp and the like, and for tensors that carry a tangent.

    Args:
        function: Public name, for the error.
        tensors: Its differentiable arguments.
        vmap: Whether torch.func.vmap is fine.

    Raises:
        RuntimeError: The function has no derivative rule there.
    """
    if torch.compiler.is_compiling():
        return
    stack = _functorch.get_interpreter_stack()
    if stack:
        named = {layer.key().name for layer in stack}
        if not vmap or named - {"Vmap"}:
            raise RuntimeError(
                f"bido_ext.{function} has no rule for the torch.func transform(s) {', '.join(sorted(named))}: "
                "differentiate with torch.autograd.grad or .backward(), loop instead of vmap, or use the "
                "formulas of bido_ext.reference, which take every transform."
            )
    if forward_ad._current_level >= 0 and any(
        isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None for t in tensors
    ):
        raise RuntimeError(
            f"bido_ext.{function} has no forward-mode derivative: use torch.autograd.grad, or the formulas of "
            "bido_ext.reference."
        )

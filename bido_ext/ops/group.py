# SPDX-License-Identifier: Apache-2.0
"""A group: variables over the same n samples, whose Gram matrices are made once, and pairs of them.

One BiDO step is one group: the input X, the hidden layers Z_1 .. Z_M and the labels Y, with the pairs
(Z_j, X) and (Z_j, Y). A measure of two variables is a group of two. The grouped ops (gram_stack, hsic,
nhsic, coco) take a group as ``(Tensor[] variables, Tensor parameters, int[] kinds)``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bido_ext.ops._full_precision import full_precision
from bido_ext.ops._validate import is_labels, readable
from bido_ext.ops.beside_diagonal import beside_diagonal
from bido_ext.ops.kernels import Gaussian, Kernel, Linear
from bido_ext.reference.gram_stack import GRAM, LABELS, group_dtype
from bido_ext.reference.resolution import SMALLEST

Parameters = tuple[float | Tensor, ...]


class Pairs(NamedTuple):
    """Pairs of variables, by index: pair p is (first[p], second[p])."""

    first: list[int]
    second: list[int]


@dataclass(frozen=True)
class Group:
    """Variables of one accumulation dtype on one device.

    Attributes:
        variables: Features (n, d), integer labels (n,) as int64, or, for a kernel of the user's own,
            its Gram matrix up to centering (n, n).
        parameters: float64 [m]: gamma of a kernel, scale of labels, else 1; [m, 2] where a kernel has two.
        kinds: What each variable is, of bido_ext.reference.kernel_entries.
    """

    variables: list[Tensor]
    parameters: Tensor
    kinds: list[int]

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.variables[0].shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its Gram matrices."""
        return group_dtype(self.variables, self.kinds)

    @property
    def dims(self) -> list[int]:
        """Width of each variable; 0 for labels."""
        return [
            0 if k == LABELS else v.shape[1]
            for v, k in zip(self.variables, self.kinds, strict=True)
        ]

    def wanted(self) -> list[int]:
        """The variables that need a gradient."""
        if not torch.is_grad_enabled():
            return []
        return [i for i, v in enumerate(self.variables) if v.requires_grad]


def make_group(
    variables: Sequence[Tensor],
    kernels: Sequence[Kernel | None],
    num_classes: int | None = None,
    exact: bool = False,
    unbiased: bool = False,
) -> Group:
    """The group of variables whose arguments were checked. Default kernels: Gaussian(), labels Linear().

    Args:
        exact: A kernel of the user's own makes its Gram matrix in float64, and so all are.
        unbiased: For an unbiased estimator, which needs that as well, and sees what is beside the diagonal.
    """
    labels = [is_labels(v) for v in variables]
    wide = any(v.dtype == torch.float64 for v in variables)
    if exact or unbiased:
        given = [k for k, label in zip(kernels, labels, strict=True) if k is not None and not label]
        wide = wide or any(k.kind is None for k in given)
    tensors: list[Tensor] = []
    parameters: list[Parameters] = []
    kinds: list[int] = []
    for v, kernel, label in zip(variables, kernels, labels, strict=True):
        kernel = kernel or (Linear() if label else Gaussian())
        parameter: Parameters = (1.0,)
        if label:
            kind, parameter, tensor = LABELS, (kernel.label_scale(num_classes),), v.long()
        else:
            tensor = v.double() if wide and v.dtype != torch.float64 else v
            kind = GRAM if kernel.kind is None else kernel.kind
            if kernel.kind is None:
                with full_precision(v.device):
                    tensor = kernel.gram_up_to_centering(tensor)
                    if not wide and (small := _is_too_small(tensor, v)) is not None:
                        if readable(v) and bool(small):
                            return make_group(variables, kernels, num_classes, True, unbiased)
                        tensor = tensor.masked_fill(small, float("nan"))
                    if unbiased and v.shape[0] >= 4:
                        tensor = beside_diagonal(tensor)
            else:
                parameter, tensor = kernel.parameters(v), kernel.tied(tensor)
        tensors.append(tensor)
        parameters.append(parameter)
        kinds.append(kind)
    return Group(tensors, _pack(parameters, tensors[0].device), kinds)


def _is_too_small(K: Tensor, x: Tensor) -> Tensor | None:
    """Whether float32 entries K of features x that differ have underflowed, a 0-d bool; None: K is float64."""
    if K.dtype == torch.float64:
        return None
    x = x.detach()
    return (K.detach().abs().amax() < SMALLEST) & (x != x[:1]).any()


def _pack(rows: list[Parameters], device: torch.device) -> Tensor:
    """float64 [m], or [m, most] where a kernel has several, on the device."""
    most = max(len(row) for row in rows)
    parameters = [p for row in rows for p in (*row, *(1.0,) * (most - len(row)))]
    packed = _pack_flat(parameters, device)
    return packed if most == 1 else packed.view(len(rows), most)


def _pack_flat(parameters: list[float | Tensor], device: torch.device) -> Tensor:
    constants = tuple(p for p in parameters if not isinstance(p, Tensor))
    known = len(constants) == len(parameters) and not torch.compiler.is_compiling()
    if known and device.type == "cuda":
        return _constants(constants, device)
    packed = [
        p.double()
        if isinstance(p, Tensor)
        # Filled in there, so that no value travels.
        else torch.full((), p, dtype=torch.float64, device=device)
        for p in parameters
    ]
    return torch.stack(packed)


@functools.lru_cache(maxsize=256)
def _constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The same numbers in every step: they travel once, and a step does not launch a kernel for each."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float64, device=device)

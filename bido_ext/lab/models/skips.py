# SPDX-License-Identifier: Apache-2.0
"""Skip connections of residual networks, scaled or removed stage by stage."""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from .ir import Unit

Block: TypeAlias = BasicBlock | Bottleneck | Unit


class Scale(nn.Module):
    """Multiplies by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def scale_skips(model: nn.Module, stages: int, factor: float) -> None:
    """Multiply what the skips of the last ``stages`` stages carry; names of weights stay.

    Raises:
        ValueError: the network has no such skips, or fewer stages.
    """
    found = stages_of(model)
    if not found:
        raise ValueError(
            "skips are scaled in ResNets of torchvision and in IR networks; this network has none"
        )
    if not 0 < stages <= len(found):
        raise ValueError(f"the network has {len(found)} stages with skips, got {stages}")
    for block in (block for stage in found[-stages:] for block in stage):
        name = "shortcut_layer" if isinstance(block, Unit) else "downsample"
        skip = getattr(block, name)
        parts = list(skip) if isinstance(skip, nn.Sequential) else [] if skip is None else [skip]
        setattr(block, name, nn.Sequential(*parts, Scale(factor)))


def stages_of(model: nn.Module) -> list[list[Block]]:
    """The residual blocks, stage by stage; an IR network begins one where it halves the image."""
    stages: list[list[Block]] = []
    for module in model.modules():
        blocks = [child for child in module.children() if isinstance(child, Block)]
        if not isinstance(module, nn.Sequential) or not blocks:
            continue
        if not isinstance(blocks[0], Unit):
            stages.append(blocks)
            continue
        for block in blocks:
            if _stride(block) > 1:
                stages.append([])
            stages[-1].append(block)
    return stages


def _stride(block: Block) -> int:
    last = [m for m in block.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)][-1]
    return int(last.stride[0])

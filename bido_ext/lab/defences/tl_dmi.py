# SPDX-License-Identifier: Apache-2.0
"""TL-DMI: the layers next to the input keep what they learnt elsewhere (Ho et al., CVPR 2024).

The published VGG16 freezes 26 of the 44 modules of its body.  Here batch norm's statistics of
frozen layers stay too, so nothing of the private images is in them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .rule import DefenceSpec, Plan, Rule


class TlDmi(Rule):
    """Freezes the first ``share`` of the layers with weights, in the order of their use."""

    def prepare(self, model: nn.Module, plan: Plan) -> None:
        """See ``Rule``."""
        if not plan.pretrained:
            raise ValueError(
                "the defence 'tl-dmi' freezes layers that were trained on other images: it needs "
                "pretrained weights (--pretrained FILE)"
            )
        self.frozen = frozen_layers(model, self.weights["share"])
        for module in self.frozen:
            module.requires_grad_(False)

    def set_training(self, model: nn.Module) -> None:
        """See ``Rule``."""
        for module in self.frozen:
            module.eval()


def frozen_layers(model: nn.Module, share: float) -> list[nn.Module]:
    """The first of the layers that hold weights, the last linear layer not among them.

    Raises:
        ValueError: ``share`` leaves no layer to freeze, or none to train beside the head.
    """
    layers = _in_order(model)[:-1]
    count = round(share * len(layers))
    if not 0 < count < len(layers):
        raise ValueError(
            f"share must freeze at least 1 and fewer than {len(layers)} layers, {share} freezes "
            f"{count}"
        )
    return layers[:count]


@torch.no_grad()
def _in_order(model: nn.Module) -> list[nn.Module]:
    """Layers with weights of their own in the order in which a forward comes to them."""
    seen: dict[nn.Module, None] = {}
    hooks = [
        module.register_forward_pre_hook(lambda layer, _: seen.setdefault(layer))
        for module in model.modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    modes = {module: module.training for module in model.modules()}
    weight = next(model.parameters())
    shape: Any = model.input_shape
    image = torch.zeros(1, *shape, device=weight.device, dtype=weight.dtype)
    try:
        model.eval()(image)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return list(seen)


SPECS = (
    DefenceSpec(
        "tl-dmi",
        {"share": 0.6},
        "TL-DMI: the first layers keep pretrained weights (Ho et al., CVPR 2024)",
        "TL-DMI",
        TlDmi,
        per_image=True,
    ),
)

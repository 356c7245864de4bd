# SPDX-License-Identifier: Apache-2.0
"""Which layers of a network of unknown make are watched."""

import torch
from torch import Tensor, nn

HOW_MANY = 4


def default_taps(network: nn.Module, input_shape: tuple[int, int, int]) -> tuple[str, ...]:
    """Names of the layers of ``network`` that BiDO watches if nobody chooses.

    ResNet: its stages; DenseNet: its dense blocks; VGG: its max-pools; ViT and others made of one
    row of blocks: four of them, evenly spaced. Everything else: four convolutions or linear layers,
    evenly spaced, that run once in a forward and give one row an image.
    """
    modules = dict(network.named_modules())
    stages = [f"layer{i}" for i in range(1, 5)]
    if all(name in modules for name in stages):
        return tuple(stages)
    dense = [name for name in modules if name.rpartition(".")[2].startswith("denseblock")]
    dense = [name for name in dense if name.count(".") == min(n.count(".") for n in dense)]
    if dense:
        return tuple(dense)
    if type(network).__name__ == "VGG":
        return tuple(n for n, m in modules.items() if isinstance(m, nn.MaxPool2d))
    for row in ("encoder.layers", "blocks"):
        if row in modules and len(children := list(modules[row].named_children())) >= HOW_MANY:
            return tuple(f"{row}.{name}" for name in evenly([n for n, _ in children]))
    return tuple(evenly(_leaves_in_order(network, input_shape)))


def evenly(names: list[str], how_many: int = HOW_MANY) -> list[str]:
    """At most ``how_many`` of ``names``, evenly spaced, the last one among them."""
    count = min(how_many, len(names))
    return [names[(i + 1) * len(names) // count - 1] for i in range(count)]


def _leaves_in_order(network: nn.Module, input_shape: tuple[int, int, int]) -> list[str]:
    """Convolutions and linear layers in the order of a forward, without the first."""
    fired: dict[str, int] = {}
    images = 3  # no number of windows or heads that a layer could mistake for images
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):

            def note(m: nn.Module, args: object, output: object, name: str = name) -> None:
                whole = isinstance(output, Tensor) and output.shape[0] == images
                fired[name] = fired.get(name, 0) + (1 if whole else 2)

            handles.append(module.register_forward_hook(note))
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(images, *input_shape))
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    once = [name for name, times in fired.items() if times == 1]
    if len(once) < 2:
        raise ValueError(
            f"taps: no layer of {type(network).__name__} can be chosen by default; name some"
        )
    return once[1:]

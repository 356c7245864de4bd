# SPDX-License-Identifier: Apache-2.0
"""The target of an attack: put in place, its classes checked."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def place(*networks: nn.Module, device: torch.device) -> None:
    """Move the networks to ``device``, in eval mode and in the faster layout for convolutions."""
    for network in networks:
        network.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Inside, no weight of ``network`` gathers a gradient; outside it is as it was."""
    wanted = [value for value in network.parameters() if value.requires_grad]
    for value in wanted:
        value.requires_grad_(False)
    try:
        yield
    finally:
        for value in wanted:
            value.requires_grad_(True)


@torch.no_grad()
def check_target(
    target: nn.Module, classes: Sequence[int], shape: Sequence[int], device: torch.device
) -> int:
    """How many classes ``target`` has.

    Args:
        classes: labels to attack.
        shape: (channels, height, width) of the images that the target will be given.

    Raises:
        ValueError: no or repeated classes, a label that the target does not have, or a target that
            does not take such images.
    """
    _check_named(classes)
    try:
        weight = next(target.parameters(), torch.zeros(0))
        outputs = int(target(torch.zeros(2, *shape, device=device, dtype=weight.dtype)).shape[1])
    except RuntimeError as error:
        raise ValueError(
            f"target must take the attack's images of shape {tuple(shape)}: {error}"
        ) from error
    check_classes(classes, outputs)
    return outputs


def check_classes(classes: Sequence[int], outputs: int) -> None:
    """Raise ValueError unless ``classes`` are different labels of a target with ``outputs`` classes."""
    _check_named(classes)
    for label in classes:
        if not 0 <= label < outputs:
            raise ValueError(f"classes: the target has labels 0 to {outputs - 1}, got {label}")


def _check_named(classes: Sequence[int]) -> None:
    if not classes:
        raise ValueError("classes must name at least one label")
    if len(set(classes)) != len(classes):
        raise ValueError(f"classes must not repeat, got {list(classes)}")


def at_least_float32(logits: Tensor) -> Tensor:
    """What a loss or a score is computed of: a half-precision network's logits as float32."""
    return logits.float() if logits.dtype.itemsize < 4 else logits

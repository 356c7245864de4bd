# SPDX-License-Identifier: Apache-2.0
"""LPIPS (Zhang et al., CVPR 2018) between reconstructions and private images, if weights are given.

The network and its learnt weights of the layers are those of torchmetrics, an optional package.  The
weights of the body are a file that the user names, torchvision's "vgg16-397923af.pth" or
"alexnet-owt-7be5be79.pth"; nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bido_ext.lab.data import ImageSet
from bido_ext.lab.judging.distances import nearest_private
from bido_ext.lab.judging.embedding import PrivateReference
from bido_ext.lab.models.checkpoint import load_checkpoint
from bido_ext.lab.models.safe_load import check_finite_weights, state_dict_of
from bido_ext.lab.models.wanted import Wanted

LPIPS = Wanted(
    "weights",
    "file of weights",
    "torchvision's vgg16-397923af.pth or alexnet-owt-7be5be79.pth",
)
BATCH = 32
# A weight that only this network has -> its name in torchmetrics.
_BODIES = {"features.28.weight": "vgg", "features.10.weight": "alex"}


def load_lpips(weights: Path) -> nn.Module:
    """The LPIPS network: two batches of images (n, 3, h, w) in [-1, 1] -> (n, 1, 1, 1).

    Raises:
        WeightsFileError: The file is missing, or holds other weights.
        ModuleNotFoundError: torchmetrics is not installed.
    """
    weights = Path(weights)
    state = state_dict_of(load_checkpoint(weights, LPIPS), weights, LPIPS)
    check_finite_weights(state, weights, LPIPS)
    try:
        from torchmetrics.functional.image.lpips import _LPIPS
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("LPIPS needs the package torchmetrics", name=error.name) from None
    found = [net for key, net in _BODIES.items() if key in state]
    if not found:
        raise LPIPS.refusal(weights, "holds neither torchvision's VGG16 nor its AlexNet")
    net: Any = found[0]
    network: nn.Module = _LPIPS(pretrained=True, net=net, pnet_rand=True)
    body = network.get_submodule("net")
    # "slice2.5.weight" of torchmetrics is "features.5.weight" of torchvision.
    places = {key: f"features.{key.split('.', 1)[1]}" for key in body.state_dict()}
    try:
        body.load_state_dict({key: state[theirs] for key, theirs in places.items()})
    except (KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise LPIPS.refusal(
            weights, f"does not hold the weights of LPIPS's body ({reason})"
        ) from None
    return network


@torch.no_grad()
def lpips_distance(network: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    """LPIPS of each pair, (n,) float64; images (n, 1 or 3, h, w) in [0, 1], grey as colour."""
    device = next(network.parameters()).device
    parts = []
    for pair in zip(first.split(BATCH), second.split(BATCH), strict=True):
        left, right = (2 * part.clamp(0, 1).expand(-1, 3, -1, -1).to(device) - 1 for part in pair)
        parts.append(network(left, right).flatten().double().cpu())
    return torch.cat(parts)


def lpips_to_nearest(
    network: nn.Module,
    images: Tensor,
    features: Tensor,
    labels: Tensor,
    reference: PrivateReference,
) -> Tensor:
    """LPIPS of each reconstruction to the private image of its class nearest to it, (n,) float64.

    The nearest is that of the evaluator's features, as in the pictures of a report.

    Args:
        network: From ``load_lpips``.
        images: (n, channels, h, w) reconstructions.
        features: (n, d) their evaluator features.
        labels: (n,) the classes that they aim at.
        reference: The private images.
    """
    _, rows = nearest_private(features, labels, reference)
    private = reference.images
    nearest = private.batch(rows) if isinstance(private, ImageSet) else private[rows]
    return lpips_distance(network, images, nearest)

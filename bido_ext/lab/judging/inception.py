# SPDX-License-Identifier: Apache-2.0
"""Frechet distance on Inception features: the FID of the literature, when its weights are at hand.

The network is that of the original FID (Heusel et al. 2017) in torch-fidelity, an optional package;
nothing is downloaded, the weights are a file that the user names.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from bido_ext.lab.data import ImageSet
from bido_ext.lab.judging.distances import frechet_distance
from bido_ext.lab.models.checkpoint import load_checkpoint
from bido_ext.lab.models.safe_load import check_finite_weights, state_dict_of
from bido_ext.lab.models.safe_save import save_atomic
from bido_ext.lab.models.wanted import Wanted

INCEPTION = Wanted(
    "weights",
    "file of weights",
    "torch-fidelity's weights-inception-2015-12-05-6726825d.pth",
)
FEATURES = 2048
BATCH = 64


def load_inception(weights: Path) -> nn.Module:
    """The FID network: uint8 images (n, 3, h, w), resized inside -> a tuple of features (n, 2048).

    Args:
        weights: State dict of torch-fidelity's release, "weights-inception-2015-12-05-6726825d.pth".

    Raises:
        WeightsFileError: If the file is missing, holds more than tensors, or other weights.
        ModuleNotFoundError: If torch-fidelity is not installed.
    """
    weights = Path(weights)
    state = state_dict_of(load_checkpoint(weights, INCEPTION), weights, INCEPTION)
    check_finite_weights(state, weights, INCEPTION)
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the Frechet distance on Inception features needs the package torch-fidelity",
            name=error.name,
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        # The package unpickles whatever it is given; this copy holds tensors alone.
        safe = Path(folder) / "inception.pt"
        save_atomic(state, safe)
        try:
            network = FeatureExtractorInceptionV3(
                "inception-v3-compat", [str(FEATURES)], feature_extractor_weights_path=str(safe)
            )
        except (RuntimeError, TypeError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise INCEPTION.refusal(
                weights, f"does not hold the FID network's weights ({reason})"
            ) from None
    return network


@torch.no_grad()
def inception_features(network: nn.Module, images: Tensor | ImageSet) -> Tensor:
    """Features (n, 2048) of images (n, 1 or 3, h, w) in [0, 1]; grey images count as colour."""
    device = next(network.parameters()).device
    parts = []
    for chosen in torch.arange(len(images)).split(BATCH):
        part = images.batch(chosen) if isinstance(images, ImageSet) else images[chosen]
        pixels = (part.clamp(0, 1) * 255).round().byte().expand(-1, 3, -1, -1)
        parts.append(network(pixels.to(device))[0].cpu())
    return torch.cat(parts)


def inception_distance(
    network: nn.Module, images: Tensor | ImageSet, private: Tensor | ImageSet
) -> float:
    """Frechet distance between the Inception features of two sets of images (n, c, h, w)."""
    return frechet_distance(
        inception_features(network, images), inception_features(network, private)
    )

# SPDX-License-Identifier: Apache-2.0
"""A diffusion model of the public images as the prior, guided by the target while it is sampled.

Ho et al., "Denoising Diffusion Probabilistic Models" (NeurIPS 2020); Song et al., "Denoising
Diffusion Implicit Models" (ICLR 2021); guidance on the image that is foreseen: Bansal et al.,
"Universal Guidance for Diffusion Models" (CVPR workshops 2023).
"""

from .inversion import DIFFUSION, DiffusionConfig, invert_diffusion
from .network import UNet
from .process import mixed, taken_apart
from .training import DiffusionPrior, DiffusionPriorConfig, train_diffusion

__all__ = [
    "DIFFUSION",
    "DiffusionConfig",
    "DiffusionPrior",
    "DiffusionPriorConfig",
    "UNet",
    "invert_diffusion",
    "mixed",
    "taken_apart",
    "train_diffusion",
]

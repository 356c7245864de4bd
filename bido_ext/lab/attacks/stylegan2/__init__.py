# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2's generator in plain PyTorch, and safe loading of weights trained elsewhere.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (CVPR 2020). Parameters carry
the names of the StyleGAN2-ADA release, so its state dict loads as it is.
"""

from .generator import StyleGan2
from .load import load_stylegan2

__all__ = ["StyleGan2", "load_stylegan2"]

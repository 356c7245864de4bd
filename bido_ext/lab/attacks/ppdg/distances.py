# SPDX-License-Identifier: Apache-2.0
"""How far two samples of features are from each other: what the generator is tuned by."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bido_ext.ops.kernels import Gaussian
from bido_ext.ops.mmd import mmd

OCTAVES = (-2, -1, 0, 1, 2)  # of the kernel's width, around the mean squared distance


def multi_kernel_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Biased squared MMD, summed over five Gaussian kernels exp(-|a - b|^2 / width).

    The widths are 1/4, 1/2, 1, 2 and 4 times the mean squared distance between the points of both
    samples, and have no gradient.

    Args:
        x: (n, d).
        y: (m, d).
    """
    both = torch.cat([x, y]).detach().double()
    n = len(both)
    # The sum over ordered pairs of |a - b|^2 is 2 n times the sum of |a - mean|^2.
    spread = 2 * (both - both.mean(0)).square().sum() / (n - 1)
    spread = spread.clamp_min(1e-12)
    widths = [spread * 2.0**octave for octave in OCTAVES]
    each = [mmd(x, y, Gaussian((width / 2).sqrt(), scale_by_dim=False)) for width in widths]
    return torch.stack(each).sum()


def conditional_transport(x: Tensor, y: Tensor) -> Tensor:
    """Conditional transport both ways, half each, with cosine distance as the cost.

    A point goes to the points of the other sample in the proportion exp(<a, b>).

    Args:
        x: (n, d).
        y: (m, d).
    """
    alike = x @ y.T
    cost = 1 - F.normalize(x, dim=1) @ F.normalize(y, dim=1).T
    there = (alike.softmax(1) * cost).sum(1).mean()
    back = (alike.softmax(0) * cost).sum(0).mean()
    return (there + back) / 2


DISTANCES = {"mmd": multi_kernel_mmd, "ct": conditional_transport}

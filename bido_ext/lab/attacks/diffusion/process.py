# SPDX-License-Identifier: Apache-2.0
"""From image to noise along a quarter circle: x(t) = cos(t pi/2) image + sin(t pi/2) noise.

The network tells v = cos noise - sin image, from which both follow at any t (Salimans and Ho, ICLR
2022), also at t = 1, where nothing of the image is left.
"""

import math

import torch
from torch import Tensor


def mixed(image: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """x(t) and v of each image (n, ...) at its time (n,)."""
    cos, sin = circle(times, image)
    return cos * image + sin * noise, cos * noise - sin * image


def taken_apart(x: Tensor, v: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Image and noise of each x(t) with its v."""
    cos, sin = circle(times, x)
    return cos * x - sin * v, sin * x + cos * v


def circle(times: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each time, to multiply ``like`` (n, ...) by."""
    angle = (times * (math.pi / 2)).view(-1, *[1] * (like.dim() - 1))
    return torch.cos(angle), torch.sin(angle)

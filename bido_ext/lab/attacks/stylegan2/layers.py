# SPDX-License-Identifier: Apache-2.0
"""Layers of StyleGAN2's generator (Karras et al., CVPR 2020, section 2).

No custom kernels: the style scales the input and the demodulation scales the output of one shared
convolution, which equals a convolution with per-image weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAIN = 2.0**0.5  # keeps the variance through a leaky ReLU
CLAMP = 256.0  # as in training; larger activations come from latents far off
TAPS = (1.0, 3.0, 3.0, 1.0)


class EqualLinear(nn.Module):
    """A linear layer whose weights are stored at unit variance and scaled when used.

    Args:
        lr_mul: the stored weights are 1/lr_mul as large, which slows their training.
        bias: its initial value.
    """

    def __init__(self, inputs: int, outputs: int, lr_mul: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_mul)
        self.bias = nn.Parameter(torch.full((outputs,), float(bias)))
        self.weight_gain, self.bias_gain = lr_mul / inputs**0.5, lr_mul

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)


def fir(like: Tensor) -> Tensor:
    """The 4 x 4 binomial low-pass filter, sum 1."""
    taps = torch.tensor(TAPS, dtype=like.dtype, device=like.device)
    return torch.outer(taps, taps) / taps.sum() ** 2


def upsample(x: Tensor) -> Tensor:
    """Twice the size: zeros in between, then the low-pass filter with gain 4."""
    kernel = (4 * fir(x)).expand(x.shape[1], 1, 4, 4)
    return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


def modulated_conv(
    x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool = True, up: bool = False
) -> Tensor:
    """A convolution whose weights are scaled per image and input channel, and normalised.

    w'_oik = s_i w_oik, then w''_oik = w'_oik / sqrt(sum_ik w'_oik^2 + 1e-8) if ``demodulate``.

    Args:
        x: (n, inputs, h, w).
        weight: (outputs, inputs, k, k), k odd.
        style: (n, inputs).
        up: double the size: a transposed convolution, then the low-pass filter with gain 4.

    Returns:
        (n, outputs, h, w), or (n, outputs, 2 h, 2 w).
    """
    x = x * style[:, :, None, None]
    if up:
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        kernel = (4 * fir(x)).expand(x.shape[1], 1, 4, 4)
        x = F.conv2d(x, kernel, padding=1, groups=x.shape[1])
    else:
        x = F.conv2d(x, weight, padding=weight.shape[2] // 2)
    if not demodulate:
        return x
    energy = style.square() @ weight.square().sum((2, 3)).T  # [n, outputs]
    return x * (energy + 1e-8).rsqrt()[:, :, None, None]


class StyledConv(nn.Module):
    """Modulated 3 x 3 convolution, fixed noise, bias, leaky ReLU."""

    noise_const: Tensor

    def __init__(
        self, inputs: int, outputs: int, w_dim: int, resolution: int, up: bool = False
    ) -> None:
        super().__init__()
        self.up = up
        self.affine = EqualLinear(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = modulated_conv(x, self.weight, self.affine(w), up=self.up)
        x = x + self.noise_const * self.noise_strength + self.bias[:, None, None]
        return (F.leaky_relu(x, 0.2) * GAIN).clamp(-CLAMP * GAIN, CLAMP * GAIN)


class ToRgb(nn.Module):
    """Modulated 1 x 1 convolution without demodulation, to image channels."""

    def __init__(self, inputs: int, channels: int, w_dim: int) -> None:
        super().__init__()
        self.affine = EqualLinear(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.weight_gain = inputs**-0.5

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.affine(w) * self.weight_gain
        x = modulated_conv(x, self.weight, style, demodulate=False)
        return (x + self.bias[:, None, None]).clamp(-CLAMP, CLAMP)

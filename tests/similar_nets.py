# SPDX-License-Identifier: Apache-2.0
"""Small networks for the tests of LayerSimilarity, and the textbook it is held against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import bido_ext as bx
from bido_ext import reference


class Net(nn.Module):
    """Convolutions, a dead layer, a container, and an output that is no tensor."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Dropout(), nn.Conv2d(width, 4, 3)
        )
        self.twice = Twice()
        self.dead = nn.Linear(4 * 36, 5)
        nn.init.zeros_(self.dead.weight)
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        z, _ = self.twice(self.body(self.stem(x)).flatten(1))
        return self.head(z) + self.dead(z)[:, :3]


class Twice(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def net(seed: int = 0, width: int = 6, dtype: torch.dtype = torch.float32) -> Net:
    torch.manual_seed(seed)
    return Net(width).to(dtype)


def batches(*sizes: int, dtype: torch.dtype = torch.float32, seed: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 3, 8, 8, generator=generator, dtype=dtype) for n in sizes]


def gram(z: Tensor) -> Tensor:
    z = z.detach().double().flatten(1)
    return z @ z.T


def expected(
    models: Sequence[nn.Module], layers: Sequence[Sequence[str]], given: Sequence[Tensor],
    unbiased: bool = True,
) -> Tensor:  # fmt: skip
    """The textbook: HSIC of every pair in every batch in float64, averaged, then the ratio."""
    shape = [len(names) for names in layers]
    products, own = torch.zeros(shape).double(), [torch.zeros(n).double() for n in shape]
    for x in given:
        stacks = []
        for model, names in zip(models, layers, strict=True):
            with bx.FeatureTaps(model.eval(), names) as taps:
                model(x)
                stacks.append([gram(taps.features[name]) for name in names])
        for i, K in enumerate(stacks[0]):
            for j, L in enumerate(stacks[1]):
                products[i, j] += reference.hsic(K, L, unbiased)
        for stack, total in zip(stacks, own, strict=True):
            total += torch.stack([reference.hsic(K, K, unbiased) for K in stack])
    return products / (own[0].sqrt()[:, None] * own[1].sqrt())


ROWS, COLUMNS = ["stem", "body.1", "body.3", "head"], ["stem", "body.3", "head"]

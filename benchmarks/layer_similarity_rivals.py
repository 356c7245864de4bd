# SPDX-License-Identifier: Apache-2.0
"""What the layers of two models are compared with, and by whom else: see benchmarks.layer_similarity."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bido_ext import FeatureTaps, reference


def resnet18(stem: str) -> nn.Module:
    """torchvision's, or with a 3 x 3 convolution of stride 1 and no pooling at the beginning."""
    from torchvision.models import resnet18 as build

    model = build(weights=None)
    if stem == "cifar":
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model.eval()


def path_convolutions(model: nn.Module) -> list[str]:
    """The convolutions without those of the shortcuts: 17 of ResNet-18."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and "downsample" not in name
    ]


class Models:
    """Two models, their layers and the batches they see."""

    def __init__(self, stem: str, n: int, batch_size: int, device: str) -> None:
        torch.manual_seed(0)
        self.pair = [resnet18(stem).to(device) for _ in range(2)]
        self.names = path_convolutions(self.pair[0])
        self.images = torch.rand(n, 3, 32, 32).to(device)
        self.batches = list(self.images.split(batch_size))

    def forward(self, batches: Sequence[Tensor]) -> None:
        """Both models without hooks."""
        for x in batches:
            for model in self.pair:
                model(x)

    def features(self, x: Tensor) -> list[list[Tensor]]:
        """The flattened outputs of the layers of both models."""
        found = []
        for model in self.pair:
            with FeatureTaps(model, self.names) as taps:
                model(x)
                found.append([z.flatten(1) for z in taps.features.values()])
        return found


def pair_by_pair(models: Models, batches: Sequence[Tensor]) -> Tensor:
    """The published algorithm: for every pair the second Gram matrix and its self-term are made again."""
    m = len(models.names)
    sums = torch.zeros(3, m, m)
    for x in batches:
        first, second = models.features(x)
        for i, z in enumerate(first):
            K = hollow(z @ z.T)
            sums[0, i] += song(K, K)
            for j, w in enumerate(second):
                L = hollow(w @ w.T)
                sums[1, i, j] += song(K, L)
                sums[2, i, j] += song(L, L)
    return sums[1] / (sums[0] * sums[2]).sqrt()


def gram_once(models: Models, batches: Sequence[Tensor]) -> Tensor:
    """Clean eager: each Gram matrix and each self-term once a batch, the pairs in a loop, element-wise."""
    m = len(models.names)
    products, selves = torch.zeros(m, m), torch.zeros(2, m)
    for x in batches:
        grams = [[z @ z.T for z in layers] for layers in models.features(x)]
        for side, stack in enumerate(grams):
            for i, K in enumerate(stack):
                selves[side, i] += reference.hsic(K, K, True)
        for i, K in enumerate(grams[0]):
            for j, L in enumerate(grams[1]):
                products[i, j] += reference.hsic(K, L, True)
    return products / (selves[0, :, None] * selves[1]).sqrt()


def hollow(K: Tensor) -> Tensor:
    return K.fill_diagonal_(0)


def song(K: Tensor, L: Tensor) -> float:
    """Equation 3 of Nguyen et al. 2021 as it is written: traces and products with 1."""
    n, ones = len(K), torch.ones(len(K), 1, device=K.device)
    product = K @ L
    totals = (ones.T @ K @ ones) * (ones.T @ L @ ones) / ((n - 1) * (n - 2))
    cross = ones.T @ product @ ones * 2 / (n - 2)
    return float((torch.trace(product) + totals - cross) / (n * (n - 3)))


def torch_cka_package(models: Models) -> Callable[[Models, Sequence[Tensor]], Tensor] | None:
    """The package torch_cka on copies of the models, which keep its hooks; None where it is missing."""
    try:
        from torch_cka import CKA  # type: ignore[import-not-found]
    except ImportError:
        return None
    device = str(models.images.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rival = CKA(*copy.deepcopy(models.pair), "a", "b", models.names, models.names, device)

    def run(models: Models, batches: Sequence[Tensor]) -> Tensor:
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(torch.cat(list(batches))), batch_size=len(batches[0])
        )
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            rival.compare(loader)
        return rival.export()["CKA"]

    return run

# SPDX-License-Identifier: Apache-2.0
"""A batch whose activations do not fit, in micro-batches. The lines marked "bido" are all that BiDO adds."""

import torch
from torch import nn

import bido_ext as bx  # bido


def train(batches):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    taps = bx.FeatureTaps(model, ["2"])  # bido
    criterion = bx.BiDOLoss("hsic", 1.0, 10.0)  # bido
    step = bx.MicroBatchedBiDO(model, taps, criterion, size=32)  # bido
    for x, y in batches:
        optimizer.zero_grad()
        step.backward(x, y)  # bido: instead of F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


if __name__ == "__main__":  # random images: put your DataLoader here
    train([(torch.rand(256, 3, 8, 8), torch.randint(10, (256,))) for _ in range(5)])

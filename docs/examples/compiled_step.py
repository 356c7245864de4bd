# SPDX-License-Identifier: Apache-2.0
"""A compiled step: taps first, torch.compile after them. The lines marked "bido" are all that BiDO adds."""

import torch
import torch.nn.functional as F
from torch import nn

import bido_ext as bx  # bido


def train(batches):
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    taps = bx.FeatureTaps(net, ["2"])  # bido
    criterion = bx.BiDOLoss(measure="nhsic", lambda_x=0.05, lambda_y=0.5)  # bido

    @torch.compile
    def loss_of(x, y):
        loss = F.cross_entropy(net(x), y)
        loss = loss + criterion(x, taps.features, y)  # bido
        return loss

    for x, y in batches:
        optimizer.zero_grad()
        loss_of(x, y).backward()
        optimizer.step()
    return net


if __name__ == "__main__":  # random images: put your DataLoader here
    train([(torch.rand(64, 3, 8, 8), torch.randint(10, (64,))) for _ in range(20)])

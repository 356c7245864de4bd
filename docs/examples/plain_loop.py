# SPDX-License-Identifier: Apache-2.0
"""A plain training loop. The lines marked "bido" are all that BiDO adds."""

import torch
import torch.nn.functional as F
from torch import nn

import bido_ext as bx  # bido


def train(batches):
    model = nn.Sequential(
        nn.Flatten(), nn.LazyLinear(64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    taps = bx.FeatureTaps(model, ["2", "4"])  # bido
    criterion = bx.BiDOLoss(measure="nhsic", lambda_x=0.05, lambda_y=0.5)  # bido
    for x, y in batches:
        loss = F.cross_entropy(model(x), y)
        loss = loss + criterion(x, taps.features, y)  # bido
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


if __name__ == "__main__":  # random images: put your DataLoader here
    train((torch.rand(64, 3, 32, 32), torch.randint(10, (64,))) for _ in range(20))

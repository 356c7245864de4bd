# SPDX-License-Identifier: Apache-2.0
"""Automatic mixed precision. The lines marked "bido" are all that BiDO adds."""

import torch
import torch.nn.functional as F
from torch import nn

import bido_ext as bx  # bido


def train(batches, device="cpu"):
    half = torch.float16 if device == "cuda" else torch.bfloat16
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10)).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler(device, enabled=half == torch.float16)
    taps = bx.FeatureTaps(net, ["2"])  # bido
    criterion = bx.BiDOLoss(measure="nhsic", lambda_x=0.05, lambda_y=0.5)  # bido
    for x, y in batches:
        x, y = x.to(device), y.to(device)
        with torch.autocast(device, dtype=half):
            loss = F.cross_entropy(net(x), y)
        loss = loss + criterion(x, taps.features, y)  # bido
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return net


if __name__ == "__main__":  # random images: put your DataLoader here
    train([(torch.rand(64, 3, 8, 8), torch.randint(10, (64,))) for _ in range(20)])

# SPDX-License-Identifier: Apache-2.0
"""A loop of Hugging Face Accelerate. The lines marked "bido" are all that BiDO adds.

accelerate launch docs/examples/accelerate_loop.py
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bido_ext as bx  # bido


def train(loader, **options):
    accelerator = Accelerator(**options)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10))
    group = "world" if accelerator.num_processes > 1 else None
    taps = bx.FeatureTaps(net, ["2"])  # bido: of the model itself, before prepare wraps it
    criterion = bx.BiDOLoss("nhsic", 0.05, 0.5, process_group=group)  # bido
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    model, optimizer, loader = accelerator.prepare(net, optimizer, loader)
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        loss = loss + criterion(x, taps.features, y)  # bido
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
    return net


if __name__ == "__main__":  # random images: put your DataLoader here
    data = TensorDataset(torch.rand(256, 3, 8, 8), torch.randint(10, (256,)))
    train(DataLoader(data, batch_size=64))

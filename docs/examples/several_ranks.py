# SPDX-License-Identifier: Apache-2.0
"""DDP with the BiDO terms of the global batch. The lines marked "bido" are all that BiDO adds.

torchrun --nproc-per-node 2 docs/examples/several_ranks.py
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import bido_ext as bx  # bido


def train(batches):
    """batches: those of this rank, as many as every other rank has."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10))
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    taps = bx.FeatureTaps(net, ["2"])  # bido
    criterion = bx.BiDOLoss("hsic", 1.0, 10.0, process_group=dist.group.WORLD)  # bido
    for x, y in batches:
        loss = F.cross_entropy(model(x), y)
        loss = loss + criterion(x, taps.features, y)  # bido
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


if __name__ == "__main__":  # random images: put your DataLoader here
    dist.init_process_group("gloo")
    torch.manual_seed(dist.get_rank())
    train([(torch.rand(16, 3, 8, 8), torch.randint(10, (16,))) for _ in range(5)])
    dist.destroy_process_group()

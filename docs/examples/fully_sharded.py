# SPDX-License-Identifier: Apache-2.0
"""FSDP2 with the BiDO terms of the global batch. The lines marked "bido" are all that BiDO adds.

torchrun --nproc-per-node 2 docs/examples/fully_sharded.py
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import bido_ext as bx  # bido


def train(batches, device="cpu"):
    """batches: those of this rank, as many as every other rank has."""
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10)).to(device)
    fully_shard(net, mesh=mesh)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    taps = bx.FeatureTaps(net, ["2"])  # bido
    criterion = bx.BiDOLoss("hsic", 1.0, 10.0, process_group=mesh)  # bido
    for x, y in batches:
        loss = F.cross_entropy(net(x), y)
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

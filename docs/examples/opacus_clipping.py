# SPDX-License-Identifier: Apache-2.0
"""Opacus clips each sample's gradient and adds noise. The lines marked "bido" are all that BiDO adds.

No privacy budget may be read from this run: BiDO's terms couple the samples of a batch, so clipping a
sample's gradient does not bound what that sample changes.
"""

import torch
import torch.nn.functional as F
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bido_ext as bx  # bido


def train(loader):
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    model, optimizer, loader = PrivacyEngine().make_private(
        module=net, optimizer=optimizer, data_loader=loader, noise_multiplier=0.5, max_grad_norm=1.0,
        poisson_sampling=False,
    )  # fmt: skip
    # The ReLU, not the layer with weights before it: the hooks of Opacus do not see through one.
    taps = bx.FeatureTaps(model, ["_module.2"])  # bido
    criterion = bx.BiDOLoss(measure="nhsic", lambda_x=0.05, lambda_y=0.5)  # bido
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        loss = loss + criterion(x, taps.features, y)  # bido
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


if __name__ == "__main__":  # random images: put your DataLoader here
    data = TensorDataset(torch.rand(256, 3, 8, 8), torch.randint(10, (256,)))
    train(DataLoader(data, batch_size=64))

# SPDX-License-Identifier: Apache-2.0
"""A Lightning module with the term in its training_step. The lines marked "bido" are all that BiDO adds.

A module that should stay as it is takes the callback of lightning_callback.py.
"""

import lightning
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bido_ext as bx  # bido


class Classifier(lightning.LightningModule):
    def __init__(self, net, layers):
        super().__init__()
        self.net = net
        self.taps = bx.FeatureTaps(net, layers)  # bido
        self.bido = bx.BiDOLoss(measure="nhsic", lambda_x=0.05, lambda_y=0.5)  # bido

    def training_step(self, batch, index):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        loss = loss + self.bido(x, self.taps.features, y)  # bido
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def train(loader, **options):
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10))
    module = Classifier(net, ["2"])
    lightning.Trainer(max_epochs=1, **options).fit(module, loader)
    return module


if __name__ == "__main__":  # random images: put your DataLoader here
    data = TensorDataset(torch.rand(256, 3, 8, 8), torch.randint(10, (256,)))
    train(DataLoader(data, batch_size=64))

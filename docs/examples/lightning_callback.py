# SPDX-License-Identifier: Apache-2.0
"""A Lightning module that stays as it is, and a callback. The lines marked "bido" are all that BiDO adds."""

import lightning
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bido_ext as bx  # bido
from bido_ext.lightning_callback import BiDOCallback  # bido


class Classifier(lightning.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def training_step(self, batch, index):
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def train(loader, **options):
    module = Classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10))
    )
    callbacks = []
    callbacks.append(BiDOCallback(bx.BiDOLoss(measure="nhsic"), layers=["net.2"]))  # bido
    lightning.Trainer(max_epochs=1, callbacks=callbacks, **options).fit(module, loader)
    return module


if __name__ == "__main__":  # random images: put your DataLoader here
    data = TensorDataset(torch.rand(256, 3, 8, 8), torch.randint(10, (256,)))
    train(DataLoader(data, batch_size=64))

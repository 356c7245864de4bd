# SPDX-License-Identifier: Apache-2.0
"""A recurrent classifier, whose layers return tuples. The lines marked "bido" are all that BiDO adds."""

import torch
import torch.nn.functional as F
from torch import nn

import bido_ext as bx  # bido


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(24, 32, batch_first=True)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        z, _ = self.lstm(x.flatten(1, 2).transpose(1, 2))  # columns are time
        z, _ = self.attention(z, z, z)
        return self.head(z.mean(1))


def train(batches):
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    taps = bx.FeatureTaps(model, {"lstm": lambda out: out[1][0][-1], "attention": 0})  # bido
    criterion = bx.BiDOLoss("nhsic", 0.05, 0.5, sigma={"lstm": 3.0, "attention": 5.0})  # bido
    for x, y in batches:
        loss = F.cross_entropy(model(x), y)
        loss = loss + criterion(x, taps.features, y)  # bido
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


if __name__ == "__main__":  # random images: put your DataLoader here
    train([(torch.rand(16, 3, 8, 8), torch.randint(10, (16,))) for _ in range(5)])

# SPDX-License-Identifier: Apache-2.0
"""Any timm model, its layers chosen by a predicate. The lines marked "bido" are all that BiDO adds."""

import timm
import torch
import torch.nn.functional as F

import bido_ext as bx  # bido


def train(name, batches, **options):
    model = timm.create_model(name, num_classes=10, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    stages = {info["module"] for info in model.feature_info}  # bido
    taps = bx.FeatureTaps(model, lambda layer, module: layer in stages)  # bido
    criterion = bx.BiDOLoss(measure="nhsic", lambda_x=0.05, lambda_y=0.5)  # bido
    for x, y in batches:
        loss = F.cross_entropy(model(x), y)
        loss = loss + criterion(x, taps.features, y)  # bido
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


if __name__ == "__main__":  # random images: put your DataLoader here
    data = [(torch.rand(16, 3, 64, 64), torch.randint(10, (16,))) for _ in range(5)]
    train("vit_tiny_patch16_224", data, img_size=64)

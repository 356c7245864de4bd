# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face vision transformer. The lines marked "bido" are all that BiDO adds."""

import torch
from transformers import ViTConfig, ViTForImageClassification

import bido_ext as bx  # bido


def train(config, batches):
    model = ViTForImageClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    taps = bx.FeatureTaps(model, lambda name, module: type(module).__name__ == "ViTMLP")  # bido
    criterion = bx.BiDOLoss(measure="nhsic", lambda_x=0.05, lambda_y=0.5)  # bido
    for x, y in batches:
        loss = model(pixel_values=x, labels=y).loss
        loss = loss + criterion(x, taps.features, y)  # bido
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


if __name__ == "__main__":  # random images: put your DataLoader here
    small = ViTConfig(
        image_size=64, hidden_size=96, num_hidden_layers=4, num_attention_heads=3, num_labels=10
    )
    train(small, [(torch.rand(16, 3, 64, 64), torch.randint(10, (16,))) for _ in range(5)])

# SPDX-License-Identifier: Apache-2.0
"""torchvision's classifiers: which layers to tap. The lines marked "bido" are all that BiDO adds."""

import torch
import torch.nn.functional as F
import torchvision

import bido_ext as bx  # bido

#: The outputs of the stages; for the transformer those of its blocks.
LAYERS = {
    "resnet18": ["layer1", "layer2", "layer3", "layer4"],
    "vgg11_bn": ["features.7", "features.14", "features.21", "features.28"],
    "densenet121": [
        "features.transition1",
        "features.transition2",
        "features.transition3",
        "features.denseblock4",
    ],
    "vit_b_16": ["encoder.layers.encoder_layer_3", "encoder.layers.encoder_layer_7"],
}


def train(name, batches, **options):
    model = torchvision.models.get_model(name, num_classes=10, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    taps = bx.FeatureTaps(model, LAYERS[name])  # bido
    criterion = bx.BiDOLoss(measure="nhsic", lambda_x=0.05, lambda_y=0.5)  # bido
    for x, y in batches:
        loss = F.cross_entropy(model(x), y)
        loss = loss + criterion(x, taps.features, y)  # bido
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


if __name__ == "__main__":  # random images: put your DataLoader here
    train("resnet18", [(torch.rand(16, 3, 64, 64), torch.randint(10, (16,))) for _ in range(5)])

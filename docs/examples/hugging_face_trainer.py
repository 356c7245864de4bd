# SPDX-License-Identifier: Apache-2.0
"""The Trainer of Hugging Face. The lines marked "bido" are all that BiDO adds."""

import tempfile

import torch
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import bido_ext as bx  # bido


class DefendedTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **options):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **options)
        x, y = inputs["pixel_values"], inputs["labels"]
        if model.training:  # bido: the loss of an evaluation stays what it was
            loss = loss + self.bido(x, self.taps.features, y)  # bido
        return (loss, outputs) if return_outputs else loss


def train(config, samples, folder):
    """samples: a list of {"pixel_values": image, "labels": class}."""
    model = ViTForImageClassification(config)
    arguments = TrainingArguments(
        folder, per_device_train_batch_size=8, num_train_epochs=1, report_to="none", save_strategy="no",
        use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    trainer = DefendedTrainer(model, arguments, train_dataset=samples, eval_dataset=samples)
    trainer.taps = bx.FeatureTaps(model, lambda name, _: name.endswith("mlp"))  # bido
    trainer.bido = bx.BiDOLoss(measure="nhsic", lambda_x=0.05, lambda_y=0.5)  # bido
    trainer.train()
    trainer.evaluate()
    return model


if __name__ == "__main__":  # random images: put your data set here
    small = ViTConfig(
        image_size=64, hidden_size=96, num_hidden_layers=4, num_attention_heads=3, num_labels=10
    )
    images = [{"pixel_values": torch.rand(3, 64, 64), "labels": i % 10} for i in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        train(small, images, folder)

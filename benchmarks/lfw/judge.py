# SPDX-License-Identifier: Apache-2.0
"""The independent judge: dlib's face descriptors, and a logistic regression on the private people.

The descriptor network was trained by others on other faces; neither the attacked classifiers nor the
attacker saw it.  It is an evaluator as ``bido_ext.lab.judging`` wants one: ``features`` and logits.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.lfw.protocol import Faces
from bido_ext.lab.data.atomic import replacing

DESCRIPTOR_DIM = 128
SCRIPT = Path(__file__).with_name("judge_process.py")


class FaceJudge(nn.Module):
    """Evaluation classifier whose features come from another process.

    Args:
        python: Interpreter that has dlib, see ``judge_process.py``.
        cache: Folder in which descriptors are kept by the hash of their images.
        classes: Number of private people.
    """

    def __init__(self, python: Path, cache: Path, classes: int) -> None:
        super().__init__()
        if not python.is_file():
            raise ValueError(
                f"judge_python must be a Python with dlib, there is no file {python}; "
                "docs/lfw.md says how to make one"
            )
        self.python, self.cache = python, cache
        self.head = nn.Linear(DESCRIPTOR_DIM, classes)

    def features(self, x: Tensor) -> Tensor:
        """Descriptors (n, 128) of images (n, 3, height, width) in [0, 1]."""
        pixels = (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        key = hashlib.sha256(pixels.tobytes()).hexdigest()[:24]
        kept = self.cache / f"{key}.npy"
        if not kept.is_file():
            with tempfile.TemporaryDirectory() as folder, replacing(kept) as partial:
                source, target = Path(folder) / "images.npy", Path(folder) / "descriptors.npy"
                np.save(source, pixels)
                self._run("describe", source, target)
                partial.write_bytes(target.read_bytes())
        return torch.from_numpy(np.load(kept))

    def describe(self, images: Tensor) -> Tensor:
        """Descriptors of uint8 images."""
        return torch.cat([self.features(chunk / 255.0) for chunk in images.split(256)])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes)."""
        return self.head(self.features(x))

    def fit(self, faces: Faces) -> FaceJudge:
        """Fit the regression on the private training images."""
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "train.npz", Path(folder) / "head.npz"
            descriptors = self.describe(faces.train).numpy()
            np.savez(source, descriptors=descriptors, labels=faces.train_labels.numpy())
            self._run("fit", source, target)
            with np.load(target) as head, torch.no_grad():
                self.head.weight.copy_(torch.from_numpy(head["weight"]))
                self.head.bias.copy_(torch.from_numpy(head["bias"]))
        return self.eval()

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Top-1 and top-5 accuracy on uint8 images: the precondition of every number it gives."""
        logits = self.head(self.describe(images))
        hits = logits.topk(5, dim=1).indices == labels[:, None]
        return float(hits[:, 0].double().mean()), float(hits.any(1).double().mean())

    def _run(self, command: str, source: Path, target: Path) -> None:
        done = subprocess.run(
            [str(self.python), str(SCRIPT), command, str(source), str(target)],
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"the judge's {command} failed: {done.stderr.strip()[-500:]}")

# SPDX-License-Identifier: Apache-2.0
"""Face descriptors and the evaluation classifier, run by a Python of its own.

Needs dlib (``dlib-bin``), ``face_recognition_models``, scikit-learn and Pillow, but neither PyTorch
nor bido_ext, so that the judge cannot move the versions of what it judges:

    python judge_process.py describe IMAGES.npy DESCRIPTORS.npy
    python judge_process.py fit TRAIN.npz HEAD.npz

IMAGES: uint8 (n, height, width, 3), faces cropped; DESCRIPTORS: float32 (n, 128).  TRAIN: descriptors
and labels; HEAD: weight (classes, 128) and bias (classes,) of a multinomial logistic regression.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

SIDE = 150  # pixels that dlib's network takes
INVERSE_PENALTY = 100.0  # C of the regression: descriptors have a norm below 2


def describe(images: np.ndarray) -> np.ndarray:
    """Descriptors of the dlib face-recognition ResNet (King 2017)."""
    import dlib
    from PIL import Image

    # Found without importing the package: its __init__ needs setuptools' pkg_resources.
    folder = next(Path(entry) / "face_recognition_models/models" for entry in sys.path
                  if (Path(entry) / "face_recognition_models/models").is_dir())  # fmt: skip
    network = dlib.face_recognition_model_v1(
        str(folder / "dlib_face_recognition_resnet_model_v1.dat")
    )
    crops = [
        np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        for image in images
    ]
    return np.array(network.compute_face_descriptor(crops), dtype=np.float32)


def fit(descriptors: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of the evaluation classifier."""
    from sklearn.linear_model import LogisticRegression

    regression = LogisticRegression(C=INVERSE_PENALTY, max_iter=5000).fit(descriptors, labels)
    if list(regression.classes_) != list(range(len(regression.classes_))):
        raise ValueError("labels must be 0..classes-1, each present")
    return regression.coef_.astype(np.float32), regression.intercept_.astype(np.float32)


def main(command: str, source: str, target: str) -> None:
    """Run one command on files."""
    if command == "describe":
        np.save(target, describe(np.load(source)))
    elif command == "fit":
        with np.load(source) as content:
            weight, bias = fit(content["descriptors"], content["labels"])
        np.savez(target, weight=weight, bias=bias)
    else:
        raise ValueError(f"command must be describe or fit, got {command!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])

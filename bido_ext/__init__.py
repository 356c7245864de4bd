# SPDX-License-Identifier: Apache-2.0
"""Gaussian Gram matrices, HSIC, nHSIC, COCO and CKA for PyTorch, and BiDO training.

import bido_ext as bx
taps = bx.FeatureTaps(model, ["layer1", "layer2"])
criterion = bx.BiDOLoss(measure="nhsic", lambda_x=0.05, lambda_y=0.5)
loss = F.cross_entropy(model(x), y) + criterion(x, taps.features, y)
"""

from importlib.metadata import PackageNotFoundError, version

from bido_ext._library import BackendRow, backends, build_info, load_kernels
from bido_ext.nn import BiDOLoss, DependenceTerms, FeatureTaps, MicroBatchedBiDO, StepLosses
from bido_ext.ops import (
    Gaussian,
    InverseMultiquadric,
    Kernel,
    Linear,
    WorkspaceError,
    cka,
    coco,
    double_center,
    gaussian_gram,
    hsic,
    nhsic,
    plan,
)

load_kernels()

try:
    __version__ = version("bido-ext")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "BackendRow",
    "BiDOLoss",
    "DependenceTerms",
    "FeatureTaps",
    "Gaussian",
    "InverseMultiquadric",
    "Kernel",
    "Linear",
    "MicroBatchedBiDO",
    "StepLosses",
    "WorkspaceError",
    "backends",
    "build_info",
    "cka",
    "coco",
    "double_center",
    "gaussian_gram",
    "hsic",
    "nhsic",
    "plan",
]

# SPDX-License-Identifier: Apache-2.0
"""Gaussian Gram matrices, HSIC, nHSIC, COCO and CKA for PyTorch, and BiDO training.

import bido_ext as bx
taps = bx.FeatureTaps(model, ["layer1", "layer2"])
criterion = bx.BiDOLoss(measure="nhsic", lambda_x=0.05, lambda_y=0.5)
loss = F.cross_entropy(model(x), y) + criterion(x, taps.features, y)

Imported after PyTorch, the package is loaded at once. Imported before it, as the command ``bido`` does, it
waits for the first use of a name, so that ``bido --help`` need not load PyTorch. The ops of
``torch.ops.bido_ext`` exist from that moment.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from bido_ext._version import __version__

if TYPE_CHECKING:
    from bido_ext.nn import BiDOLoss, DependenceTerms, FeatureTaps, MicroBatchedBiDO, StepLosses
    from bido_ext.nn.layer_similarity import LayerSimilarity
    from bido_ext.nn.similarity_matrix import SimilarityMatrix
    from bido_ext.nn.suggest_weights import suggest_weights
    from bido_ext.nn.weight_ladder import WeightLadder, WeightSuggestion
    from bido_ext.ops._plan_arguments import WorkspaceError
    from bido_ext.ops.cka import cka
    from bido_ext.ops.coco import coco
    from bido_ext.ops.distance_covariance import distance_correlation, distance_covariance
    from bido_ext.ops.double_center import double_center
    from bido_ext.ops.gaussian_gram import gaussian_gram
    from bido_ext.ops.hsic import hsic
    from bido_ext.ops.independence_test import IndependenceTest, independence_test
    from bido_ext.ops.kernels import (
        Energy,
        Gaussian,
        InverseMultiquadric,
        Kernel,
        Laplacian,
        Linear,
        Mixture,
        Polynomial,
        RationalQuadratic,
    )
    from bido_ext.ops.mmd import mmd
    from bido_ext.ops.nhsic import nhsic
    from bido_ext.ops.plan import plan
    from bido_ext.ops.tune import Tuning, tune
    from bido_ext.serving.libraries import build_info
    from bido_ext.serving.report import BackendRow, backends

#: Public name -> the module that has it.
_HOME = {
    "build_info": "bido_ext.serving.libraries",
    **dict.fromkeys(("BackendRow", "backends"), "bido_ext.serving.report"),
    **dict.fromkeys(
        ("BiDOLoss", "DependenceTerms", "FeatureTaps", "MicroBatchedBiDO", "StepLosses"),
        "bido_ext.nn",
    ),
    "LayerSimilarity": "bido_ext.nn.layer_similarity",
    "SimilarityMatrix": "bido_ext.nn.similarity_matrix",
    "suggest_weights": "bido_ext.nn.suggest_weights",
    **dict.fromkeys(("WeightLadder", "WeightSuggestion"), "bido_ext.nn.weight_ladder"),
    **dict.fromkeys(
        ("Energy", "Gaussian", "IndependenceTest", "InverseMultiquadric", "Kernel", "Laplacian", "Linear",
         "Mixture", "Polynomial", "RationalQuadratic", "Tuning", "WorkspaceError", "cka", "coco",
         "distance_correlation", "distance_covariance", "double_center", "gaussian_gram", "hsic",
         "independence_test", "mmd", "nhsic", "plan", "tune"),
        "bido_ext.ops",
    ),
}  # fmt: skip
_SUBPACKAGES = ("nn", "ops", "reference")

__all__ = [
    "BackendRow",
    "BiDOLoss",
    "DependenceTerms",
    "Energy",
    "FeatureTaps",
    "Gaussian",
    "IndependenceTest",
    "InverseMultiquadric",
    "Kernel",
    "Laplacian",
    "LayerSimilarity",
    "Linear",
    "MicroBatchedBiDO",
    "Mixture",
    "Polynomial",
    "RationalQuadratic",
    "SimilarityMatrix",
    "StepLosses",
    "Tuning",
    "WeightLadder",
    "WeightSuggestion",
    "WorkspaceError",
    "__version__",
    "backends",
    "build_info",
    "cka",
    "coco",
    "distance_correlation",
    "distance_covariance",
    "double_center",
    "gaussian_gram",
    "hsic",
    "independence_test",
    "mmd",
    "nhsic",
    "plan",
    "suggest_weights",
    "tune",
]


def _load() -> None:
    importlib.import_module("bido_ext.ops")  # defines the ops and loads the kernels
    for name, home in _HOME.items():
        globals()[name] = getattr(importlib.import_module(home), name)


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"bido_ext.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'bido_ext' has no attribute {name!r}")
    _load()
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBPACKAGES})


# A backend that is forced and cannot run has to raise here.
if "torch" in sys.modules or os.environ.get("BIDO_EXT_BACKEND"):
    _load()

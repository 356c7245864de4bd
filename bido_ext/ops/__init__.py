# SPDX-License-Identifier: Apache-2.0
"""The ops: one file is one contract (public function, schema, fake kernel, derivative)."""

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
from bido_ext.ops.plan import Plan, plan
from bido_ext.ops.tune import Tuning, tune
from bido_ext.rows import load_rows
from bido_ext.serving.install import install

__all__ = [
    "Energy",
    "Gaussian",
    "IndependenceTest",
    "InverseMultiquadric",
    "Kernel",
    "Laplacian",
    "Linear",
    "Mixture",
    "Plan",
    "Polynomial",
    "RationalQuadratic",
    "Tuning",
    "WorkspaceError",
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
    "tune",
]

load_rows()
install()

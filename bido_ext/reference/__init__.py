# SPDX-License-Identifier: Apache-2.0
"""The textbook: every op as plain PyTorch that reads like its formula.

Any device, any floating dtype, differentiable. In float64 these functions are the truth the tests
compare every other implementation with; they are also what runs where no compiled kernel serves.
"""

from bido_ext.reference.cka import cka
from bido_ext.reference.coco import coco
from bido_ext.reference.distance_covariance import (
    distance_covariance,
    distance_matrix,
    squared_distance_correlation,
    squared_distance_covariance,
)
from bido_ext.reference.distance_products import distance_products
from bido_ext.reference.double_center import double_center
from bido_ext.reference.gaussian_gram import gaussian_gram
from bido_ext.reference.gram_stack import gram_stack
from bido_ext.reference.hsic import hsic, hsic_gradient
from bido_ext.reference.mmd import mmd
from bido_ext.reference.nhsic import nhsic
from bido_ext.reference.permuted_products import (
    permuted_class_sums,
    permuted_factor_products,
    permuted_products,
)

__all__ = [
    "cka",
    "coco",
    "distance_covariance",
    "distance_matrix",
    "distance_products",
    "double_center",
    "gaussian_gram",
    "gram_stack",
    "hsic",
    "hsic_gradient",
    "mmd",
    "nhsic",
    "permuted_class_sums",
    "permuted_factor_products",
    "permuted_products",
    "squared_distance_correlation",
    "squared_distance_covariance",
]

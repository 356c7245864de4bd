# SPDX-License-Identifier: Apache-2.0
"""The measures that BiDOLoss knows by name."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bido_ext.ops._validate import check_choice
from bido_ext.ops.cka import CkaMeasure
from bido_ext.ops.coco import CocoMeasure
from bido_ext.ops.hsic import ESTIMATORS, HsicMeasure
from bido_ext.ops.measure import Measure
from bido_ext.ops.nhsic import NhsicMeasure


def measure_by_name(
    name: str,
    eps: float,
    coco_norm: str,
    linalg_dtype: torch.dtype | None,
    estimator: str = "biased",
) -> Measure:
    """The measure called ``name``, with those of the settings that are its own.

    Raises:
        ValueError: It has no such estimator.
    """
    unbiased = check_choice(estimator, "estimator", ESTIMATORS) == "unbiased"
    if unbiased and name not in ("hsic", "cka"):
        raise ValueError(
            f'estimator="unbiased" is one of hsic and cka; {name} has none: leave it out.'
        )
    builders: dict[str, Callable[[], Measure]] = {
        "hsic": lambda: HsicMeasure(unbiased),
        "nhsic": lambda: NhsicMeasure(eps, linalg_dtype),
        "coco": lambda: CocoMeasure(coco_norm, linalg_dtype),
        "cka": lambda: CkaMeasure(unbiased),
    }
    return builders[name]()

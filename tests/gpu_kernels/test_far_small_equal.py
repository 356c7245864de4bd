# SPDX-License-Identifier: Apache-2.0
"""Far samples, variables small against the ridge, equal samples in both variables: right or NaN on a GPU, too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cuda_emulator import public
from property_cases import Case, Data

#: What the bounds of a GPU allow (5e-5), in budgets of the property test, which are those of a CPU.
ALLOWED = {"hsic": 5, "nhsic": 1}


def data(scale: float = 0.0, outlier: float | None = None, duplicates: bool = False) -> Data:
    return Data(
        d=4, rank=4, log_scale=scale, log_offset=0.0, outliers=int(outlier is not None),
        log_outlier=outlier or 0.0, duplicates=duplicates, dtype=torch.float32,
    )  # fmt: skip


INPUTS = {
    "far sample and labels": (data(outlier=1.5), None),
    "far sample": (data(outlier=3.0), data()),
    "far sample in both": (data(outlier=2.0), data(outlier=2.0)),
    "small beside the ridge": (data(scale=-3.0, outlier=1.5), data()),
    "partner small beside the ridge": (data(), data(scale=-3.0, outlier=1.5)),
    "equal samples in both": (data(duplicates=True), data(duplicates=True)),
}


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("measure", ["hsic", "nhsic"])
@pytest.mark.parametrize("kernel", ["gaussian", "laplacian"])
def test_right_or_nan(
    kernels: Any, inputs: str, measure: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    public.serve(kernels.functions, monkeypatch)
    x, y = INPUTS[inputs]
    case = Case(
        measure=measure, n=24, seed=3, x=x, kernel=kernel, log_sigma=0.0, relative="small" not in inputs,
        y=y, kernel_y="gaussian", log_eps=-3.0 if "small" in inputs else -5.0, classes=3,
    )  # fmt: skip
    ratio, what = public.worst_ratio(case)
    assert ratio <= ALLOWED[measure], what

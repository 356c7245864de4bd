# SPDX-License-Identifier: Apache-2.0
"""nhsic of a variable that is small against the ridge, with a sample far from the others: all digits of both."""

from __future__ import annotations

import property_cases as cases
import pytest
import torch
from compositions import serve_compositions
from property_cases import Case, Data


@pytest.mark.parametrize("implementation", ["native", "composition"])
@pytest.mark.parametrize("n", [15, 60])
@pytest.mark.parametrize("log_scale", [-8.3, -7.0, -6.0, -5.0, -4.0])
@pytest.mark.parametrize("log_outlier", [1.4, 4.0])
def test_right(
    implementation: str, n: int, log_scale: float, log_outlier: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """I - c P would leave nothing of the ordinary samples beside the far one."""
    if implementation == "composition":
        serve_compositions(monkeypatch)
    x = Data(d=1, rank=1, log_scale=0.0, log_offset=0.0, outliers=0, log_outlier=0.0, duplicates=False, dtype=torch.float32)  # fmt: skip
    y = Data(d=1, rank=1, log_scale=log_scale, log_offset=0.0, outliers=1, log_outlier=log_outlier, duplicates=False, dtype=torch.float32)  # fmt: skip
    case = Case(
        measure="nhsic", n=n, seed=0, x=x, kernel="gaussian", log_sigma=-1.8, relative=False, y=y,
        kernel_y="gaussian", log_eps=-3.0, classes=1,
    )  # fmt: skip
    ratio, what = cases.worst_ratio(case)
    assert ratio <= 1, what
    assert not cases.refused_with_reason(what), what

# SPDX-License-Identifier: Apache-2.0
"""Values of other packages within 1e-10 in float64, from the same bits: slow, installs them.

BIDO_PEERS_PYTHON names an interpreter that has hyppo, dcor, causal-learn and scikit-learn already. Where
definitions differ (docs/independence.md), the difference is written here as a formula.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import bido_ext as bx

PEERS = ("hyppo", "dcor", "causal-learn", "scikit-learn")
SCRIPT = Path(__file__).resolve().parents[1] / "independence_peers.py"


def gaussian(gamma: float) -> bx.Gaussian:
    """exp(-gamma |a - b|^2)."""
    return bx.Gaussian((0.5 / gamma) ** 0.5, scale_by_dim=False)


def unbiased_cka(x: Tensor, y: Tensor, gamma: float) -> float:
    kernel = gaussian(gamma)
    return bx.independence_test(
        x, y, "cka", permutations=1, kernel_x=kernel, kernel_y=kernel, estimator="unbiased"
    ).statistic


def hyppo_default(x: Tensor, y: Tensor) -> float:
    """One bandwidth for both: the median distance of x."""
    distances = torch.pdist(x).sort().values
    count = len(distances)
    median = float(distances[(count - 1) // 2] + distances[count // 2]) / 2
    kernel = bx.Gaussian(median, scale_by_dim=False)
    return float(bx.cka(x, y, kernel, kernel)) ** 0.5


def causal_learn(x: Tensor, y: Tensor) -> float:
    """Columns are standardized, and the sum is not divided by (n - 1)^2."""
    x, y = ((v - v.mean(0)) / v.std(0) for v in (x, y))
    kernels = (bx.Gaussian(s, scale_by_dim=False) for s in (1.3, 0.7))
    return float(bx.hsic(x, y, *kernels)) * (len(x) - 1) ** 2


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[: len(x) // 3], x[len(x) // 3 :]


OWN: dict[str, Callable[[Tensor, Tensor], object]] = {
    "dcor distance_covariance": bx.distance_covariance,
    "dcor distance_correlation": bx.distance_correlation,
    "dcor u_distance_covariance_sqr": lambda x, y: bx.distance_covariance(x, y, "unbiased"),
    "dcor u_distance_correlation_sqr": lambda x, y: bx.distance_correlation(x, y, "unbiased"),
    "dcor exponent 0.6": lambda x, y: bx.distance_covariance(x, y, beta=0.6),
    "dcor energy_distance": lambda x, y: bx.mmd(*split(x), bx.Energy()),
    "hyppo Dcorr biased": bx.distance_correlation,
    "hyppo Dcorr unbiased": lambda x, y: bx.distance_correlation(x, y, "unbiased"),
    "hyppo Hsic biased": lambda x, y: bx.cka(x, y, gaussian(0.3), gaussian(0.3)).sqrt(),
    "hyppo Hsic unbiased": lambda x, y: unbiased_cka(x, y, 0.3),
    "hyppo Hsic default": hyppo_default,
    "scikit-learn hsic": lambda x, y: bx.hsic(x, y, gaussian(0.3), gaussian(0.1)),
    "scikit-learn mmd biased": lambda x, y: bx.mmd(*split(x), gaussian(0.3)),
    "scikit-learn mmd unbiased": lambda x, y: bx.mmd(*split(x), gaussian(0.3), "unbiased"),
    "causal-learn HSIC_V": causal_learn,
}


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("peers")
    python = os.environ.get("BIDO_PEERS_PYTHON")
    if python is None:
        venv.create(folder / "venv", with_pip=True)
        python = str(folder / "venv" / "bin" / "python")
        installed = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *PEERS],
            env=os.environ | {"PIP_CONSTRAINT": os.devnull}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if installed.returncode:
            pytest.skip(f"the packages cannot be had for Python {sys.version_info[:2]}")
    subprocess.run([python, str(SCRIPT), str(folder / "values.npz")], check=True)
    with np.load(folder / "values.npz") as values:
        return dict(values)


@pytest.mark.slow
@pytest.mark.parametrize("what", OWN)
def test_values(peers: dict[str, np.ndarray], what: str) -> None:
    cases = [name.removesuffix(f"|{what}") for name in peers if name.endswith(f"|{what}")]
    assert len(cases) == 7
    for case in cases:
        expected = float(peers[f"{case}|{what}"])
        x, y = (torch.from_numpy(peers[f"{case}|{v}"]) for v in "xy")
        if np.isnan(expected):
            continue  # a third of four samples is one, too few for an unbiased estimate
        own = float(OWN[what](x, y))  # type: ignore[arg-type]
        assert own == pytest.approx(expected, rel=1e-10, abs=1e-10), case


@pytest.mark.slow
def test_pvalues_agree_within_their_own_noise(peers: dict[str, np.ndarray]) -> None:
    x, y = (torch.from_numpy(peers[f"p|{v}"]) for v in "xy")
    own = bx.independence_test(x, y, "distance_covariance", permutations=9999).pvalue
    noise = (own * (1 - own) / 999) ** 0.5
    for name in ("dcor", "hyppo Dcorr"):
        assert abs(float(peers[f"p|{name}"]) - own) < 4 * noise, name
    # causal-learn has other moments for its gamma distribution: near, not equal.
    x, y = ((v - v.mean(0)) / v.std(0) for v in (x, y))
    kernel = bx.Gaussian(1.0, scale_by_dim=False)
    gamma = bx.independence_test(x, y, method="gamma", kernel_x=kernel, kernel_y=kernel).pvalue
    assert abs(float(peers["p|causal-learn gamma"]) - gamma) < 0.02

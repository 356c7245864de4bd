# SPDX-License-Identifier: Apache-2.0
"""What other packages say, run by an interpreter that has them: python independence_peers.py OUT.npz

Inputs are those of the packages' own tests: the linear and spiral simulations of hyppo, the iris samples that
scikit-learn ships, small arrays as in dcor's tests, and pairs of causal-learn's kind. Every input is saved beside
the values, so that both sides compute from the same bits.
"""

from __future__ import annotations

import sys
import warnings

import numpy as np

warnings.filterwarnings("ignore")


def inputs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    from hyppo.tools import linear, spiral
    from sklearn.datasets import load_iris

    np.random.seed(123456789)
    pairs = {"linear": linear(100, 1), "spiral": spiral(200, 1), "linear wide": linear(60, 20)}
    iris = load_iris()["data"]
    pairs["iris"] = iris[:, :2].copy(), iris[:, 2:].copy()
    pairs["small"] = (
        np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12.0]]),
        np.array([[1.0], [0], [0], [1]]),
    )
    x = np.random.normal(size=(120, 1))
    pairs["chain"] = x, np.tanh(x) + 0.5 * np.random.normal(size=(120, 1))
    wide = np.random.normal(size=(80, 200)) + 50
    pairs["wide, offset"] = wide, wide[:, :40] ** 2
    return {
        k: (np.ascontiguousarray(a, float), np.ascontiguousarray(b, float))
        for k, (a, b) in pairs.items()
    }


def values(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    import dcor
    from causallearn.utils.KCI.KCI import KCI_UInd
    from hyppo.independence import Dcorr, Hsic
    from sklearn.metrics.pairwise import rbf_kernel
    from sklearn.preprocessing import KernelCenterer

    n = len(x)
    result = {
        "dcor distance_covariance": dcor.distance_covariance(x, y),
        "dcor distance_correlation": dcor.distance_correlation(x, y),
        "dcor u_distance_covariance_sqr": dcor.u_distance_covariance_sqr(x, y),
        "dcor u_distance_correlation_sqr": dcor.u_distance_correlation_sqr(x, y),
        "dcor exponent 0.6": dcor.distance_covariance(x, y, exponent=0.6),
        "dcor energy_distance": dcor.energy_distance(x[: n // 3], x[n // 3 :]),
        "hyppo Dcorr biased": Dcorr(bias=True).statistic(x, y),
        "hyppo Dcorr unbiased": Dcorr(bias=False).statistic(x, y),
        "hyppo Hsic biased": Hsic(bias=True, gamma=0.3).statistic(x, y),
        "hyppo Hsic unbiased": Hsic(bias=False, gamma=0.3).statistic(x, y),
        "hyppo Hsic default": Hsic(bias=True).statistic(x, y),
    }
    K, L = rbf_kernel(x, gamma=0.3), rbf_kernel(y, gamma=0.1)
    centered = KernelCenterer().fit_transform(K), KernelCenterer().fit_transform(L)
    result["scikit-learn hsic"] = (centered[0] * centered[1]).sum() / (n - 1) ** 2
    m = n // 3
    result["scikit-learn mmd biased"] = K[:m, :m].mean() + K[m:, m:].mean() - 2 * K[:m, m:].mean()
    within = (
        [
            (part.sum() - np.trace(part)) / (len(part) * (len(part) - 1))
            for part in (K[:m, :m], K[m:, m:])
        ]
        if m > 1
        else [np.nan]
    )
    result["scikit-learn mmd unbiased"] = sum(within) - 2 * K[:m, m:].mean()
    test = KCI_UInd(est_width="manual", kwidthx=1.3, kwidthy=0.7)
    grams = test.kernel_matrix(x.copy(), y.copy())
    result["causal-learn HSIC_V"] = test.HSIC_V_statistic(*grams)[0]
    return {name: float(value) for name, value in result.items()}


def pvalues(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    import dcor
    from causallearn.utils.KCI.KCI import KCI_UInd
    from hyppo.independence import Dcorr

    random = np.random.RandomState(0)
    test = dcor.independence.distance_covariance_test(x, y, num_resamples=999, random_state=random)
    gamma = KCI_UInd(est_width="manual", kwidthx=1.0, kwidthy=1.0).compute_pvalue(
        x.copy(), y.copy()
    )
    return {
        "dcor": float(test.pvalue),
        "hyppo Dcorr": float(Dcorr(bias=True).test(x, y, reps=999, auto=False, random_state=0)[1]),
        "causal-learn gamma": float(gamma[0]),
    }


def main(path: str) -> None:
    out: dict[str, np.ndarray] = {}
    for name, (x, y) in inputs().items():
        out[f"{name}|x"], out[f"{name}|y"] = x, y
        for what, value in values(x, y).items():
            out[f"{name}|{what}"] = np.array(value)
    random = np.random.RandomState(7)
    x = random.normal(size=(80, 2))
    y = 0.25 * x + random.normal(size=(80, 2))  # a p-value that is neither 0 nor 1
    out["p|x"], out["p|y"] = x, y
    for what, value in pvalues(x, y).items():
        out[f"p|{what}"] = np.array(value)
    np.savez(path, **out)


if __name__ == "__main__":
    main(sys.argv[1])

# SPDX-License-Identifier: Apache-2.0
"""hyppo and dcor in a process of their own, with their own interpreter: python independence_peers.py

Reads lines of JSON, {"call": name, "path": npz of x and y, "permutations": number, "gamma": number or null},
and answers each with the seconds of one call (wall, CPU), its value and its p-value. Nothing of bido_ext is
imported.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

warnings.filterwarnings("ignore")


def calls() -> dict[str, Callable[..., tuple[float, float | None]]]:
    """The packages' own functions, each as its documentation calls it."""
    import dcor
    from hyppo.independence import Dcorr, Hsic

    def dcor_value(x: Any, y: Any, **_: Any) -> tuple[float, None]:
        return float(dcor.distance_covariance(x, y)), None

    def dcor_test(x: Any, y: Any, permutations: int, **_: Any) -> tuple[float, float]:
        test = dcor.independence.distance_covariance_test(
            x, y, num_resamples=permutations, random_state=np.random.RandomState(0)
        )
        return float(test.statistic), float(test.pvalue)

    def hyppo_dcorr(x: Any, y: Any, permutations: int, **_: Any) -> tuple[float, float]:
        return _pair(Dcorr(bias=True).test(x, y, reps=permutations, auto=False, random_state=0))

    def hyppo_hsic(x: Any, y: Any, permutations: int, gamma: float) -> tuple[float, float]:
        test = Hsic(bias=True, gamma=gamma)
        return _pair(test.test(x, y, reps=permutations, auto=False, random_state=0))

    return {
        "dcor distance_covariance": dcor_value,
        "dcor distance_covariance_test": dcor_test,
        "hyppo Dcorr.test": hyppo_dcorr,
        "hyppo Hsic.test": hyppo_hsic,
    }


def _pair(test: Any) -> tuple[float, float]:
    return float(test[0]), float(test[1])


def versions() -> dict[str, str]:
    """Of the packages and what they stand on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("dcor", "hyppo", "numpy", "numba", "scipy")}


def serve() -> None:
    """Answers until the input ends."""
    functions = calls()
    print(json.dumps(versions()), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        with np.load(request["path"]) as data:
            x, y = data["x"], data["y"]
        arguments = {"permutations": request["permutations"], "gamma": request["gamma"]}
        began, cpu = time.perf_counter(), time.process_time()
        value, pvalue = functions[request["call"]](x, y, **arguments)
        seconds = time.perf_counter() - began, time.process_time() - cpu
        print(json.dumps({"seconds": seconds, "value": value, "pvalue": pvalue}), flush=True)


if __name__ == "__main__":
    serve()

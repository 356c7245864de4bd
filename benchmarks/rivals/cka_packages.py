# SPDX-License-Identifier: Apache-2.0
"""Unbiased CKA of the packages ckatorch and cka-pytorch, as they compute it from the features of one batch.

Their functions are imported from a folder that pip fills without their dependencies (plots, data loaders), and
without their __init__ files, which import those. Both multiply the Gram matrices, K L, for each of three HSICs.
ckatorch computes in float64 whatever it is given. Its cka_base takes Gaussians whose bandwidth is the median of
all squared distances, the zeros of the diagonal among them, and has no gradient; cka_batch is linear.
cka-pytorch has the linear kernel alone; its calculator runs under no_grad, its hsic1 is differentiable.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

PACKAGES = {"ckatorch": "ckatorch==1.0.3", "cka_pytorch": "cka-pytorch==1.1.3"}

Cka = Callable[[Tensor, Tensor], Tensor]


def install(folder: Path) -> bool:
    """Fills an empty folder with the packages, and nothing else; False where they cannot be had."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--target", str(folder), *PACKAGES.values()]
    constraint = {"PIP_CONSTRAINT": os.devnull}
    for more in ({}, {"PIP_CONFIG_FILE": os.devnull}):  # an index that is set up may lack them
        environment = os.environ | constraint | more
        if (
            subprocess.run(command, env=environment, capture_output=True, check=False).returncode
            == 0
        ):
            return True
    return False


def load(folder: Path) -> dict[str, Cka]:
    """Functions of x and y, unbiased CKA each; the first two linear and differentiable."""
    core, hsic = _module(folder, "ckatorch", "core"), _module(folder, "cka_pytorch", "hsic")

    def cka_pytorch(x: Tensor, y: Tensor) -> Tensor:
        K, L = (x @ x.T)[None], (y @ y.T)[None]
        own = hsic.hsic1(K, K) * hsic.hsic1(L, L)
        return (hsic.hsic1(K, L) / own.sqrt())[0]  # type: ignore[no-any-return]

    return {
        "ckatorch": lambda x, y: core.cka_batch(x[None], y[None]),
        "cka-pytorch": cka_pytorch,
        "ckatorch, value alone": lambda x, y: core.cka_base(x, y, unbiased=True),
        "ckatorch, Gaussian": lambda x, y: core.cka_base(x, y, "rbf", unbiased=True),
    }


def _module(folder: Path, package: str, name: str) -> Any:
    shell = types.ModuleType(package)
    shell.__path__ = [str(folder / package)]
    sys.modules[package] = shell
    return importlib.import_module(f"{package}.{name}")

# SPDX-License-Identifier: Apache-2.0
"""An installed wheel serves with its own kernels and is right: python tests/wheel_smoke.py."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import bido_ext as bx
from bido_ext import reference

CLONE = Path(__file__).resolve().parents[1]


def gram(variable: Tensor) -> Tensor:
    """In float64; of labels that of one-hot vectors."""
    if not variable.is_floating_point():
        rows = F.one_hot(variable).double()
        return rows @ rows.T
    return bx.Gaussian().gram_up_to_centering(variable.double())


def error(found: Tensor, wanted: Tensor) -> float:
    return ((found.double() - wanted).norm() / wanted.norm()).item()


def main() -> None:
    package = Path(bx.__file__).resolve().parent
    if package.parent == CLONE:
        sys.exit(f"{package} is the clone, not an installed wheel.")
    served = {r.implementation for r in bx.backends() if r.op == "hsic" and r.device == "cpu"}
    if served != {"cpu"}:
        sys.exit(f"hsic on the CPU is served by {served}, not by the wheel's own kernels.")
    torch.manual_seed(0)
    x, labels = torch.randn(96, 40), torch.arange(96) % 7
    z = torch.randn(96, 24, requires_grad=True)
    exact = z.detach().double().requires_grad_()
    for other in (x, labels):
        value, wanted = bx.hsic(z, other), reference.hsic(gram(exact), gram(other))
        (grad,), (wanted_grad,) = (
            torch.autograd.grad(v, of) for v, of in ((value, z), (wanted, exact))
        )
        if max(error(value, wanted), error(grad, wanted_grad)) > 1e-5:
            sys.exit(f"value {value}, wanted {wanted}; gradient off by {error(grad, wanted_grad)}")
    print(f"bido_ext {bx.__version__} in {package} is right on PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Golden values of the published formulas, computed in float64 on lattice data (docs/mathematics.md)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import bido_ext as bx

CASES = {"m8": (8, 12, 5, 4), "m64": (64, 48, 32, 16), "m64wide": (64, 3072, 512, 1000)}
GOLDEN = {
    "nhsic x": (4.866407183, 16.105184446, 37.419859720),
    "nhsic y linear": (1.843292441, 6.024752515, 11.442050920),
    "nhsic y gaussian": (1.835985450, 5.662841409, 2.288739710),
    "nhsic y imq": (1.843191731, 6.023436218, 11.439551045),
    "coco fro x": (9.299901858e-4, 2.248886009e-4, 1.775274635e-4),
    "coco spectral x": (8.139850402e-4, 1.606795378e-4, 1.179519359e-4),
    "coco fro y": (1.663646500e-2, 4.589553427e-3, 3.963989611e-3),
    "coco spectral y": (1.446678940e-2, 3.451678564e-3, 2.661185119e-3),
}


def lattice(n: int, d: int, p: int, a: int, b: int, c: int) -> Tensor:
    i, j = torch.arange(n)[:, None], torch.arange(d)[None]
    return ((a * i + b * j + c * i * j) % p).double() / p


def compute(quantity: str, Z: Tensor, X: Tensor, y: Tensor, num_classes: int) -> Tensor:
    if quantity.startswith("coco"):
        _, norm, other = quantity.split()
        return bx.coco(Z, X if other == "x" else y, norm=norm)
    kernel = {
        "nhsic x": None,
        "nhsic y linear": bx.Linear(),
        "nhsic y gaussian": bx.Gaussian(5.0),
        "nhsic y imq": bx.InverseMultiquadric(),
    }[quantity]
    return bx.nhsic(Z, X if quantity == "nhsic x" else y, kernel_y=kernel, num_classes=num_classes)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("quantity", GOLDEN)
@pytest.mark.parametrize(
    ("dtype", "nhsic_tolerance", "coco_tolerance"),
    [(torch.float64, 1e-9, 1e-9), (torch.float32, 1e-4, 1e-5)],
    ids=["float64", "float32"],
)
def test_golden(
    case: str, quantity: str, dtype: torch.dtype, nhsic_tolerance: float, coco_tolerance: float
) -> None:
    n, dx, dz, num_classes = CASES[case]
    X = lattice(n, dx, 97, 37, 101, 11).to(dtype)
    Z = lattice(n, dz, 89, 53, 29, 7).to(dtype)
    y = (7 * torch.arange(n)) % min(num_classes, 16)
    expected = GOLDEN[quantity][list(CASES).index(case)]
    tolerance = nhsic_tolerance if quantity.startswith("nhsic") else coco_tolerance
    value = float(compute(quantity, Z, X, y, num_classes))
    assert value == pytest.approx(expected, rel=tolerance)

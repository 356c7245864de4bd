# SPDX-License-Identifier: Apache-2.0
"""Who serves double_center, and how it is checked."""

from __future__ import annotations

from torch import Tensor

from bido_ext import reference
from bido_ext.rows._inputs import noise
from bido_ext.serving.comparison import Check
from bido_ext.serving.limits import narrow_rows
from bido_ext.serving.row import Functions, Implementation, Row

POSITION = 3


def check(f: Functions, x: Tensor, check: Check) -> None:
    """A random square matrix; the op is its own backward."""
    K = noise(x.shape[0], x.shape[0]).float()
    wanted = reference.double_center(K.double())
    check.compare("double_center", f["double_center"](K.to(check.device)), wanted, check.values)


ROW = Row(
    "double_center",
    ("double_center",),
    (
        Implementation("cpu"),
        Implementation("triton", (narrow_rows,)),
        Implementation("cuda"),
        Implementation("composed"),
    ),
    features="K",
    products=False,
    check=check,
)

# SPDX-License-Identifier: Apache-2.0
"""The form of PyTorch's products that several rows have: operands split for tensor cores."""

from __future__ import annotations

from bido_ext.serving.limits import no_float64, no_tf32
from bido_ext.serving.row import Implementation


def split_form(op: str) -> Implementation:
    """Of float32 accuracy; where TF32 is allowed, plain products are faster."""
    return Implementation(
        "split",
        (no_float64, no_tf32),
        module=f"bido_ext.composed.{op}_split",
        what="six bfloat16 products of split operands in place of a float32 one",
    )

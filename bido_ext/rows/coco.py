# SPDX-License-Identifier: Apache-2.0
"""Who serves coco."""

from __future__ import annotations

from bido_ext.serving.row import Arguments, Implementation, Row

POSITION = 6


def frobenius_in_float64(arguments: Arguments) -> str | None:
    """What the kernel of the CPU has."""
    if arguments["norm"] != "fro":
        return "the spectral norm"
    return None if arguments["wide"] else "algebra in float32"


ROW = Row(
    "coco",
    ("coco", "coco_backward"),
    (
        Implementation(
            "cpu",
            (frobenius_in_float64,),
            "Frobenius norm, algebra in float64 (default up to n = 1024)",
        ),
    ),
    composition="composition of gram_stack and torch.linalg",
)

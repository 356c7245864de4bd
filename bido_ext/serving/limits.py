# SPDX-License-Identifier: Apache-2.0
"""What an implementation may not take: reasons that several ops share, to be named in their rows."""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext._precision import tf32_allowed
from bido_ext.serving.row import Arguments, Limit

#: Entries from row to row from which on 128 rows, a block of the Triton kernels, are out of 32 bits.
WIDEST_ROW = 1 << 24


def features_of(arguments: Arguments) -> list[Tensor]:
    """The variables of a group, or the one tensor of features."""
    if "variables" in arguments:
        return list(arguments["variables"])
    return [arguments["x"] if "x" in arguments else arguments["K"]]


def no_float64(arguments: Arguments) -> str | None:
    """The kernels of GPUs accumulate in float32."""
    wide = any(t.dtype == torch.float64 for t in features_of(arguments))
    return "float64 features" if wide else None


def narrow_rows(arguments: Arguments) -> str | None:
    """Triton's offsets are of 32 bits."""
    for t in features_of(arguments):
        if t.dim() == 2 and max(t.stride(0), t.shape[1]) >= WIDEST_ROW:
            return f"rows of {WIDEST_ROW} entries and more"
    return None


def group_of_at_most(most: int) -> Limit:
    """At most so many variables, and so many pairs."""

    def limit(arguments: Arguments) -> str | None:
        count = max(len(arguments["variables"]), len(arguments["first"]))
        return f"{count} variables or pairs, at most {most}" if count > most else None

    return limit


def samples_at_most(most: int) -> Limit:
    """At most so many samples."""

    def limit(arguments: Arguments) -> str | None:
        n = features_of(arguments)[0].shape[0]
        return f"{n} samples, at most {most}" if n > most else None

    return limit


def samples_more_than(least: int) -> Limit:
    """More samples than so many."""

    def limit(arguments: Arguments) -> str | None:
        n = features_of(arguments)[0].shape[0]
        return f"{n} samples, more than {least} wanted" if n <= least else None

    return limit


def no_tf32(arguments: Arguments) -> str | None:
    """Products of float32 must be float32."""
    return "products in TF32, which are allowed now" if tf32_allowed() else None

# SPDX-License-Identifier: Apache-2.0
"""The form of the Triton kernels for heavy products: a GPU's bulk copy engine (TMA) carries operands."""

from __future__ import annotations

import functools

import torch

from bido_ext.reference.kernel_entries import LABELS, NOT_SMOOTH
from bido_ext.serving.limits import features_of, narrow_rows, no_float64
from bido_ext.serving.report import NEVER_RUN
from bido_ext.serving.row import Arguments, Implementation, Limit

#: Fewer samples do not give every processor a tile; narrower features are not worth a pass of their own.
LEAST_SAMPLES, LEAST_WIDTH = 2048, 1024
#: Compute capabilities with the engine and 227 KB of shared memory a block.
CAPABILITIES = (9, 10)


def tma_form(op: str, *limits: Limit) -> Implementation:
    """Of the accuracy of the Triton kernels; what else an op does not give it."""
    return Implementation(
        "tma",
        (no_float64, narrow_rows, *limits, heavy, with_tma),
        f"n >= {LEAST_SAMPLES}, d >= {LEAST_WIDTH}",
        module=f"bido_ext.triton_kernels.{op}_tma",
        what=f"Triton kernel on features copied by TMA, sm_90 and sm_100 ({NEVER_RUN})",
        # Tiles of several programs, also beside the diagonal's; rows that the engine does not take where they
        # lie; whole tiles on a card of up to 177 processors, with sums in two pieces.
        shapes=((528, 200), (513, 37), (2064, 2100)),
        lacking=no_tma,
    )


def heavy(arguments: Arguments) -> str | None:
    """Some variable of a smooth or the linear kernel is long and wide."""
    features = features_of(arguments)
    if features[0].shape[0] < LEAST_SAMPLES:
        return f"{features[0].shape[0]} samples, at least {LEAST_SAMPLES} wanted"
    widths = [
        t.shape[1]
        for t, kind in zip(features, arguments.get("kinds", [0] * len(features)), strict=True)
        if kind < LABELS and kind not in NOT_SMOOTH
    ]
    if not widths:
        return "kernels that are neither smooth nor linear"
    widest = max(widths)
    return f"{widest} columns, at least {LEAST_WIDTH} wanted" if widest < LEAST_WIDTH else None


def with_tma(arguments: Arguments) -> str | None:
    """The features lie on a device with the engine."""
    return no_tma(features_of(arguments)[0].device)


@functools.cache
def no_tma(device: torch.device) -> str | None:
    """Why the engine is not to be had there."""
    if device.type != "cuda" or torch.version.hip is not None:
        return "a device without TMA"
    major, minor = torch.cuda.get_device_capability(device)
    why = f"sm_{major}{minor}, which has no TMA or too little shared memory"
    return None if major in CAPABILITIES else why

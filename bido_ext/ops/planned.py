# SPDX-License-Identifier: Apache-2.0
"""hsic and cka of a pair in the regime the planner chooses."""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext._library import has_kernel
from bido_ext.ops.hsic_streaming import KINDS, streaming_hsic_values
from bido_ext.ops.kernels import Gaussian, Kernel, Linear
from bido_ext.ops.measure import Measure, check_pair, finish_pair, measure_pair
from bido_ext.ops.plan import check_workspace, plan

#: Up to this n whole Gram matrices are cheaper than tiles.
WHOLE_UP_TO = 512


def planned_pair(
    measure: Measure,
    x: Tensor,
    y: Tensor,
    kernel_x: Kernel | None,
    kernel_y: Kernel | None,
    num_classes: int | None,
    workspace_bytes: int | None,
) -> Tensor:
    """A measure that can stream, dense or streaming as the planner decides."""
    check_workspace(workspace_bytes)
    labels = check_pair(x, y, kernel_x, kernel_y, num_classes)
    n = x.shape[0]
    can_tile = has_kernel("hsic_streaming", x.device.type)
    own = all(k is None or type(k) in KINDS for k in (kernel_x, kernel_y))
    whole = n <= WHOLE_UP_TO or not can_tile or not own or torch.compiler.is_compiling()
    if workspace_bytes is None and whole:
        return measure_pair(measure, x, y, kernel_x, kernel_y, num_classes)
    if not can_tile:
        raise ValueError(
            f"workspace_bytes cannot be honoured on {x.device.type}: no streaming kernel serves there "
            "(python -m bido_ext says why). Leave it unset, or move the features to the CPU."
        )
    dims = (x.shape[1], 0 if labels else y.shape[1])
    dtype = torch.float64 if torch.float64 in (x.dtype, y.dtype) else x.dtype
    chosen = plan(n, dims, dtype, measure.name, workspace_bytes, x.device)
    values = streaming_hsic_values(
        x,
        y,
        kernel_x or Gaussian(),
        kernel_y or (Linear() if labels else Gaussian()),
        num_classes,
        chosen.tile,
        keep_tiles=chosen.regime == "dense",
    )
    return finish_pair(measure.from_streaming(values), x, y, labels)

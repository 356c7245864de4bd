# SPDX-License-Identifier: Apache-2.0
"""bx.plan: regime, tile and bytes; and what does not fit is refused in words, by plan and by the measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import bido_ext as bx


def test_planner() -> None:
    small = bx.plan(1000, [512, 256], workspace_bytes=64 << 20)
    assert (small.regime, small.tile) == ("dense", 128)
    assert small.workspace_bytes < 2 * 1000 * 1000 * 4
    assert bx.plan(300, [512, 256], workspace_bytes=64 << 20).tile == 300  # one tile
    pair = bx.plan(16384, [512, 512], workspace_bytes=4 << 30)
    assert 1.0 < pair.workspace_bytes / (16384**2 * 4) < 1.1  # in n x n float32 matrices
    labels = bx.plan(16384, [512], workspace_bytes=4 << 30)
    assert 0.5 < labels.workspace_bytes / (16384**2 * 4) < 0.6
    assert labels == bx.plan(16384, [512, 0], workspace_bytes=4 << 30)
    double = bx.plan(16384, [512, 512], torch.float64, workspace_bytes=8 << 30)
    assert 1.9 < double.workspace_bytes / pair.workspace_bytes < 2.1
    large = bx.plan(32768, [512, 512], workspace_bytes=256 << 20)
    assert large.regime == "streaming"
    assert large.workspace_bytes < 256 << 20
    assert "does not fit into workspace_bytes=268,435,456" in large.reason
    tighter = bx.plan(32768, [512, 512], workspace_bytes=8 << 20)
    assert 32 <= tighter.tile < large.tile
    assert tighter.workspace_bytes <= 8 << 20
    # What the workspace leaves holds tiles; with room for all of them the plan is dense.
    roomy = bx.plan(32768, [512, 512], workspace_bytes=3 << 30)
    assert roomy.regime == "streaming"
    assert roomy.kept_tiles > large.kept_tiles >= 0
    assert 2 << 30 < roomy.workspace_bytes <= 3 << 30
    assert small.kept_tiles == pair.kept_tiles == -1
    assert bx.plan(64, [100], measure="nhsic").regime == "dense"
    assert "free memory" in bx.plan(64, [100, 3], measure="cka").reason


def test_planner_of_a_step() -> None:
    step, matrix = [12288, 65536, 2048, 0], 4096**2 * 4
    dense = bx.plan(4096, step, workspace_bytes=1 << 30)
    assert dense.regime == "dense"
    assert 1.5 < dense.workspace_bytes / matrix < 1.7  # half of three matrices, none of labels
    streaming = bx.plan(4096, step, workspace_bytes=64 << 20)
    assert streaming.regime == "streaming"
    assert streaming.workspace_bytes <= 64 << 20
    assert "does not fit into workspace_bytes=67,108,864" in streaming.reason
    more = bx.plan(4096, [*step, 512, 512], workspace_bytes=1 << 30)
    assert 0.9 < (more.workspace_bytes - dense.workspace_bytes) / matrix < 1.1  # two halves
    algebra = bx.plan(4096, step, measure="nhsic", workspace_bytes=2 << 30)
    assert algebra.regime == "dense"
    assert algebra.workspace_bytes > 9 * matrix  # K, its inverse, and work
    # coco keeps a gradient where nhsic keeps an inverse.
    coco = bx.plan(4096, step, measure="coco", workspace_bytes=2 << 30)
    assert 1.99 < algebra.workspace_bytes / coco.workspace_bytes < 2.01  # in float64, on a CPU


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, y: bx.hsic(x, y, workspace_bytes=1000), bx.WorkspaceError, "hsic of n=50 samples needs at least .* more than workspace_bytes=1,000: raise workspace_bytes or lower n"),
        (lambda x, y: bx.hsic(x, y, estimator="unbiased", workspace_bytes=1000), bx.WorkspaceError, "hsic of n=50 samples needs at least"),
        (lambda x, y: bx.cka(x, y, workspace_bytes=1000), bx.WorkspaceError, "cka of n=50 samples needs at least"),
        (lambda x, y: bx.cka(x, y, workspace_bytes=0), ValueError, "workspace_bytes must be positive, got 0"),
        (lambda x, y: bx.hsic(x, y, workspace_bytes=1e6), TypeError, "workspace_bytes must be an integer, got float"),
        (lambda x, y: bx.hsic(x, y, workspace_bytes=True), TypeError, "workspace_bytes must be an integer, got bool"),
        (lambda x, y: bx.plan(10**6, [512], measure="nhsic", workspace_bytes=1 << 30), bx.WorkspaceError, "nhsic of n=1,000,000 samples needs about .* use hsic or cka, which stream"),
        (lambda x, y: bx.plan(10**6, [512, 3, 0], measure="coco", workspace_bytes=1 << 30), bx.WorkspaceError, "coco of n=1,000,000 samples"),
        (lambda x, y: bx.plan(4096, [9, 512, 3, 0], workspace_bytes=1 << 10), bx.WorkspaceError, "hsic of n=4,096 samples needs at least"),
        (lambda x, y: bx.plan(1, [512]), ValueError, "n must be at least 2 and below 67107840, got 1"),
        (lambda x, y: bx.plan(10, []), ValueError, r"dims must be the widths of at least two variables, one of them features; got \[\]"),
        (lambda x, y: bx.plan(10, [0, 0]), ValueError, r"dims must be the widths of .* got \[0, 0\]"),
        (lambda x, y: bx.plan(10, [4, -1]), ValueError, "each of dims must be at least 0 .* got -1"),
        (lambda x, y: bx.plan(10, [512], measure="mmd"), ValueError, "measure must be one of"),
    ],
)  # fmt: skip
def test_refusals(call: Callable[..., Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(torch.rand(50, 3), torch.arange(50) % 3)

# SPDX-License-Identifier: Apache-2.0
"""workspace_bytes where float32 does not do: kept in float64 as well, or refused with the reason."""

from __future__ import annotations

import pytest
import torch
from oracle import relative_error

import bido_ext as bx

N, D = 700, 30


def far_features(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    x[::2] *= 40
    return x.to(dtype)


@pytest.mark.parametrize("measure", [bx.hsic, bx.cka])
def test_refused_where_it_does_not_fit(measure: object) -> None:
    x, y = far_features(), torch.arange(N) % 3
    smallest = next(b for b in range(100_000, 4_000_000, 50_000) if _fits(b))
    with pytest.raises(bx.WorkspaceError, match=r"float64 takes 168,000 bytes.*workspace_bytes"):
        measure(x, y, sigma=1.0, workspace_bytes=smallest)  # type: ignore[operator]
    leaf = x.clone().requires_grad_()
    measure(leaf, y, sigma=1.0, workspace_bytes=20_000_000).backward()  # type: ignore[operator]
    wide = x.double().requires_grad_()
    measure(wide, y, sigma=1.0).backward()  # type: ignore[operator]
    assert relative_error(leaf.grad, wide.grad) < 1e-6


def test_features_that_are_not_finite_keep_their_reason() -> None:
    x, y = far_features(), torch.arange(N) % 3
    x[3, 2] = float("nan")
    with pytest.raises(ValueError, match="x contain"):
        bx.hsic(
            x,
            y,
            sigma=1.0,
            workspace_bytes=next(b for b in range(100_000, 4_000_000, 50_000) if _fits(b)),
        )


def _fits(workspace_bytes: int) -> bool:
    try:
        bx.plan(N, [D, 0], workspace_bytes=workspace_bytes)
    except bx.WorkspaceError:
        return False
    return True

# SPDX-License-Identifier: Apache-2.0
"""BiDOLoss(estimator="unbiased"), alone, in micro-batches and over ranks; and what float32 does not hold over
ranks, which is computed in float64 as in one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracle import relative_error
from ranks import run_ranks
from torch import nn
from unbiased_ranks import CONSTANT, EXCHANGES, SCENES, a_batch, by_ranks, far_batch, of_whole

import bido_ext as bx
from bido_ext.reference.gram_stack import gram_up_to_centering
from bido_ext.reference.resolution import unresolved


@pytest.mark.parametrize("measure", ["hsic", "cka"])
def test_equals_the_function(measure: str) -> None:
    x, z, y = a_batch()
    z = [t.requires_grad_() for t in z]
    criterion = bx.BiDOLoss(measure, 0.5, 2.0, estimator="unbiased")
    value = criterion(x, z, y)
    function = getattr(bx, measure)
    expected = sum(
        0.5 * function(x, t, estimator="unbiased") - 2 * function(t, y, estimator="unbiased")
        for t in z
    )
    torch.testing.assert_close(value, expected)
    assert "unbiased" in criterion._settings()


def test_what_is_refused() -> None:
    x, z, y = a_batch()
    for measure in ("nhsic", "coco"):
        with pytest.raises(ValueError, match='"unbiased" is one of hsic and cka'):
            bx.BiDOLoss(measure, estimator="unbiased")
    with pytest.raises(ValueError, match="estimator must be one of"):
        bx.BiDOLoss("hsic", estimator="best")
    criterion = bx.BiDOLoss("cka", estimator="unbiased")
    with pytest.raises(ValueError, match="at least 4"):
        criterion(x[:3], [t[:3] for t in z], y[:3])
    with pytest.raises(
        ValueError, match=r"layer '0'.*undefined where .*layer '0'.*nothing to comp"
    ):
        criterion(x, [torch.ones_like(z[0]), z[1]], y)


def test_micro_batches() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x, _, y = a_batch()
    grads = []
    for size in (len(x), 2):
        criterion = bx.BiDOLoss("cka", 0.5, 2.0, estimator="unbiased")
        with bx.FeatureTaps(model, ["1"]) as taps:
            model.zero_grad()
            bx.MicroBatchedBiDO(model, taps, criterion, size).backward(x, y)
        grads.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(*grads)


@pytest.fixture(scope="module")
def of_ranks() -> list[dict[str, Any]]:
    return run_ranks(by_ranks, 3)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize(
    ("name", "bound"),
    [
        (name, b)
        for name in SCENES
        for b in (None, 3000)
        if not b or name[:4] not in ("nhsi", "coco")
    ],
)
def test_ranks(name: str, exchange: str, bound: int | None, of_ranks: list[dict[str, Any]]) -> None:
    results = [rank[f"{name} {exchange} {bound}"] for rank in of_ranks]
    value, grads = of_whole(name)
    for found, _ in results:
        assert relative_error(found, value) < 1e-5
    for k, grad in enumerate(grads):
        rows = torch.cat([found[k] for _, found in results])
        assert relative_error(rows, grad) < (1e-10 if rows.dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_layer_that_every_rank_finds_constant(
    exchange: str, of_ranks: list[dict[str, Any]]
) -> None:
    x, (z, _), y = a_batch(torch.float32)
    layer = CONSTANT["by rank"](z).requires_grad_()
    value = bx.BiDOLoss("cka", estimator="unbiased")(x, [layer], y).item()
    for results in of_ranks:
        assert "layer '0' or y has nothing to compare" in results[f"the same {exchange}"]
        assert results[f"by rank {exchange}"] == pytest.approx(value, rel=1e-5)


def test_the_far_batch_is_beyond_float32() -> None:
    x, z, _ = far_batch()
    E = [gram_up_to_centering(t, torch.tensor(0.5 / t.shape[1]), 0, torch.float32) for t in (x, *z)]
    assert any(bool(unresolved(K)) for K in E)


def test_few_samples_of_all_ranks(of_ranks: list[dict[str, Any]]) -> None:
    for results in of_ranks:
        assert "global batch has 3 samples, at least 4" in results["few"]

# SPDX-License-Identifier: Apache-2.0
"""BiDOLoss(process_group=...) in 2 and 4 processes against one process that has the whole batch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from global_batch import (
    COUNTS,
    LAYERS,
    MEASURES,
    Product,
    a_batch,
    a_model,
    all_steps,
    float32_features,
    kernel_batch,
    settings,
    single,
    terms,
)
from one_process import assert_equals_one_process, joined
from oracle import relative_error
from ranks import run_ranks

import bido_ext as bx
from benchmarks.scaling_model import cost_of_step

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="no torch.distributed")


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def ranks(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return run_ranks(all_steps, request.param)


@pytest.mark.parametrize("measure", MEASURES)
def test_equals_one_process(ranks: list[dict[str, Any]], measure: str) -> None:
    assert_equals_one_process(ranks, measure)


@pytest.mark.parametrize("measure", MEASURES)
def test_float32_features(ranks: list[dict[str, Any]], measure: str) -> None:
    for counts in COUNTS[len(ranks)]:
        x, layers, y = float32_features(sum(counts))
        z = [layer.requires_grad_() for layer in layers]
        criterion = bx.BiDOLoss(**settings(measure))
        value = criterion(x, z, y)
        grads = torch.autograd.grad(value, z)
        results = [rank[f"{measure} {counts} float32"] for rank in ranks]
        for result in results:
            assert result["value"].dtype == torch.float32
            assert torch.equal(result["value"], results[0]["value"])
            assert relative_error(result["terms"], terms(criterion)) < 1e-6
        for j, grad in enumerate(grads):
            rows = torch.cat([result["grads"][j] for result in results])
            assert relative_error(rows, grad) < 1e-6


def test_moves_what_the_plan_says(ranks: list[dict[str, Any]]) -> None:
    world_size, widths = len(ranks), [12, 9, 6, 0]
    for counts in COUNTS[world_size]:
        for measure in MEASURES:
            for dtype, kind in ((torch.float64, ""), (torch.float32, " float32")):
                # The plan spreads evenly; what counts is the largest rank.
                plan = bx.plan(
                    max(counts) * world_size, widths, dtype, measure, world_size=world_size
                )
                for rank in ranks:
                    result = rank[f"{measure} {counts}{kind}"]
                    assert sum(result["forward"]) == plan.moved_bytes
                    assert len(result["forward"]) == plan.messages
                    assert result["backward"] == []


def test_row_panels_do_the_share_of_work_that_the_model_says(ranks: list[dict[str, Any]]) -> None:
    for counts in COUNTS[len(ranks)]:
        for measure in ("hsic", "cka"):
            for r, rank in enumerate(ranks):
                cost = cost_of_step(sum(counts), [12, 9, 6, 0], measure, len(ranks), 4, counts[r])
                assert rank[f"{measure} {counts} float32"]["flops"] == cost.product_flops


def test_blocks_of_rows_give_the_same(ranks: list[dict[str, Any]]) -> None:
    counts = COUNTS[len(ranks)][0]
    n = sum(counts)
    split = {"world_size": len(ranks), "exchange": "gather"}
    assert bx.plan(n, [12, 9, 6, 0], torch.float64, "hsic", 3000, **split).tile < 5
    value, all_terms, grads = single("hsic", n, torch.float64)
    for rank in ranks:
        result = rank["blocks"]
        assert relative_error(result["value"], value) < 1e-12
        assert relative_error(result["terms"], all_terms) < 1e-12
        assert relative_error(joined(result["grads"]), joined(grads)) < 1e-10


def test_local_keeps_the_terms_of_each_rank(ranks: list[dict[str, Any]]) -> None:
    world_size = len(ranks)
    x, y = a_batch(8 * world_size, torch.float64)
    model = a_model(torch.float64)
    with bx.FeatureTaps(model, LAYERS) as taps:
        model(x)
    for r, rank in enumerate(ranks):
        assert rank["local"]["forward"] == []
        model = a_model(torch.float64)
        taps = bx.FeatureTaps(model, LAYERS)
        own = slice(8 * r, 8 * r + 8)
        model(x[own])
        criterion = bx.BiDOLoss(**settings("hsic"))
        criterion(x[own], taps.features, y[own])
        torch.testing.assert_close(rank["local"]["terms"], terms(criterion))


@pytest.mark.parametrize("name", ["Linear", "InverseMultiquadric", "Product"])
def test_other_kernels(ranks: list[dict[str, Any]], name: str) -> None:
    counts = COUNTS[len(ranks)][0]
    x, z, y = kernel_batch(sum(counts))
    z.requires_grad_()
    kernel = Product() if name == "Product" else getattr(bx, name)()
    value = bx.BiDOLoss("cka", kernel_y=kernel)(x, [z], y)
    (grad,) = torch.autograd.grad(value, z)
    for rank in ranks:
        assert relative_error(rank["kernels"][f"{name} value"], value.detach()) < 1e-10
    gathered = torch.cat([rank["kernels"][f"{name} grad"] for rank in ranks])
    assert relative_error(gathered, grad) < 1e-8


def test_all_ranks_refuse_together(ranks: list[dict[str, Any]]) -> None:
    last = len(ranks) - 1
    for r, rank in enumerate(ranks):
        said = rank["refusals"]
        assert "the global batch has 0 sample(s)" in said["empty"]
        assert "features of layer '0' contain(s) NaN or Inf" in said["not finite"]
        if r == last:
            assert "y has labels from -1" in said["labels"]
            assert "x must be a floating-point batch" in said["not a tensor"]
        else:
            for case in ("labels", "not a tensor"):
                assert f"rank(s) [{last}] refused their part of the batch" in said[case]
            for case in ("layers", "widths", "layer names", "eps"):
                assert "does not belong with that of rank(s)" in said[case]


def test_fully_shard(ranks: list[dict[str, Any]]) -> None:
    if len(ranks) != 2:
        pytest.skip("once is enough")
    counts = COUNTS[2][0]
    _, _, grads = single("hsic", sum(counts), torch.float64)
    for rank in ranks:
        assert relative_error(joined(rank["fully_shard"]), joined(grads)) < 1e-6


def test_micro_batches_of_all_ranks(ranks: list[dict[str, Any]]) -> None:
    for k, counts in enumerate(COUNTS[len(ranks)]):  # one of them with a rank without samples
        _, _, grads = single("hsic", sum(counts), torch.float64)
        for rank in ranks:
            task, *found = rank["micro"][k]
            assert torch.isfinite(task)
            assert relative_error(joined(found), joined(grads)) < 1e-6


def test_compiled_with_a_graph_break(ranks: list[dict[str, Any]]) -> None:
    if len(ranks) != 2:
        pytest.skip("once is enough")
    counts = COUNTS[2][0]
    for r, rank in enumerate(ranks):
        eager = rank[f"hsic {counts} float32"]
        assert relative_error(rank["compiled"]["value"], eager["value"]) < 1e-6
        assert relative_error(rank["compiled"]["grad"], eager["grads"][0]) < 1e-6, r


def test_one_rank_equals_no_group() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        x, y = a_batch(9, torch.float64)
        z = torch.rand(9, 4, dtype=torch.float64, requires_grad=True)
        for measure in MEASURES:
            criterion = bx.BiDOLoss(measure, process_group=dist.group.WORLD)
            value, want = copy.deepcopy(criterion)(x, [z], y), bx.BiDOLoss(measure)(x, [z], y)
            assert relative_error(value.detach(), want.detach()) < 1e-9
            (grad,), (want_grad,) = (torch.autograd.grad(v, z) for v in (value, want))
            assert relative_error(grad, want_grad) < 1e-6
        for wrong in (3, x):  # a tensor does not say whether it equals "world"
            with pytest.raises(
                TypeError, match="process_group must be a torch.distributed ProcessGroup"
            ):
                bx.BiDOLoss(process_group=wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="process_group must be .*world"):
            bx.BiDOLoss(process_group="all")
        with pytest.raises(TypeError, match="local must be True or False, got int"):
            bx.BiDOLoss(local=1)  # type: ignore[arg-type]
    finally:
        dist.destroy_process_group()


def test_the_world_may_come_after_the_loss() -> None:
    criterion = bx.BiDOLoss("hsic", process_group="world")
    assert criterion.world_size == 1
    x, y = a_batch(9, torch.float64)
    with pytest.raises(RuntimeError, match="needs torch.distributed.init_process_group before"):
        criterion(x, [x], y)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        want = bx.BiDOLoss("hsic")(x, [x], y)
        assert relative_error(criterion(x, [x], y), want) < 1e-9
    finally:
        dist.destroy_process_group()


def test_gathered_features_end_with_the_backward(ranks: list[dict[str, Any]]) -> None:
    assert [rank["kept"] for rank in ranks] == [0] * len(ranks)


def test_a_lone_rank_is_told_once(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        (said,) = rank["alone"]
        assert f"there are {len(ranks)} ranks" in said


def test_plan_of_ranks() -> None:
    plan = bx.plan(4096, [12288, 512, 0], measure="hsic", world_size=8)
    assert plan.regime == "panels"
    assert plan.moved_bytes == 7 * (512 * ((12288 + 512) * 4 + 8) + 8 * (3 * 512 + 2) + 32)
    assert plan.messages == 5
    assert "8 ranks" in plan.reason
    assert "received per rank" in plan.reason
    whole = bx.plan(1024, [12288, 512, 0], measure="nhsic", world_size=8)
    assert whole.regime == "dense"
    assert whole.moved_bytes == 7 * (128 * ((12288 + 512) * 4 + 8) + 32)
    assert bx.plan(1024, [12288, 512, 0], measure="nhsic").moved_bytes == 0
    with pytest.raises(
        ValueError, match="world_size must be at least 1 and below 2147483648, got 0"
    ):
        bx.plan(64, [3, 0], world_size=0)

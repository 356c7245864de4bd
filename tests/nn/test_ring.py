# SPDX-License-Identifier: Apache-2.0
"""BiDOLoss(exchange="ring") in 2 and 4 processes against one process that has the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from global_batch import COUNTS, MEASURES, float32_features, kernel_batch, settings, single, terms
from one_process import assert_equals_one_process, joined
from oracle import relative_error
from ranks import run_ranks
from ring_batch import BOUND, WIDE, WIDE_ROWS, ring_steps
from torch import Tensor

import bido_ext as bx
from benchmarks.scaling_model import cost_of_step
from bido_ext.nn.shards import Shards, _mask, _unmask
from bido_ext.ops.exchange import exchange_of_ring
from bido_ext.ops.ring_memory import ring_blocks

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="no torch.distributed")
WIDTHS = [12, 9, 6, 0]


@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.slow), 4])
def ranks(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return run_ranks(ring_steps, request.param)


def whole_step(measure: str, n: int, **options: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Value, terms and gradients of the float32 features of the whole batch in one process."""
    x, layers, y = float32_features(n)
    x, *z = (t.requires_grad_() for t in (x, *layers))
    criterion = bx.BiDOLoss(**{**settings(measure), **options})
    value = criterion(x, z, y)
    return value.detach(), terms(criterion), list(torch.autograd.grad(value, [x, *z]))


@pytest.mark.parametrize("measure", MEASURES)
def test_equals_one_process_under_ddp(ranks: list[dict[str, Any]], measure: str) -> None:
    assert_equals_one_process(ranks, measure)


@pytest.mark.parametrize("kind", ["float32", "bounded"])
@pytest.mark.parametrize("measure", MEASURES)
def test_float32_features(ranks: list[dict[str, Any]], measure: str, kind: str) -> None:
    if kind == "bounded" and measure in ("nhsic", "coco"):
        pytest.skip("takes no workspace_bytes")
    for counts in COUNTS[len(ranks)]:
        _, all_terms, (_, *grads) = whole_step(measure, sum(counts))
        results = [rank[f"{measure} {counts} {kind}"] for rank in ranks]
        for result in results:
            assert result["value"].dtype == torch.float32
            assert torch.equal(result["value"], results[0]["value"])
            assert relative_error(result["terms"], all_terms) < 1e-6
        for j, grad in enumerate(grads):
            rows = torch.cat([result["grads"][j] for result in results])
            # The inverse of nhsic magnifies the round-off of its float32 Gram matrices.
            assert relative_error(rows, grad) < (5e-5 if measure == "nhsic" else 1e-6)


def test_moves_what_the_model_says(ranks: list[dict[str, Any]]) -> None:
    for counts in COUNTS[len(ranks)]:
        even = len(set(counts)) == 1
        for measure in MEASURES:
            for kind, itemsize in (("", 8), (" float32", 4), (" bounded", 4)):
                name = f"{measure} {counts}{kind}"
                if name not in ranks[0]:
                    continue
                keep = kind != " bounded"
                element = 8 if measure == "nhsic" else itemsize
                for r, rank in enumerate(ranks):
                    moved = exchange_of_ring(counts, r, WIDTHS, itemsize, element, measure, keep)
                    assert sum(rank[name]["forward"]) == moved.bytes
                    assert len(rank[name]["forward"]) == moved.messages
                    assert rank[name]["backward"] == []
                if even:
                    dtype = torch.float64 if itemsize == 8 else torch.float32
                    plan = bx.plan(
                        sum(counts), WIDTHS, dtype, measure, None if keep else BOUND,
                        world_size=len(ranks), exchange="ring",
                    )  # fmt: skip
                    assert plan.exchange == "ring"
                    assert (plan.moved_bytes, plan.messages) == (moved.bytes, moved.messages)


def test_does_the_share_of_work_that_the_model_says(ranks: list[dict[str, Any]]) -> None:
    for counts in COUNTS[len(ranks)]:
        for measure in ("hsic", "cka"):
            for kind in ("float32", "bounded"):
                for r, rank in enumerate(ranks):
                    cost = cost_of_step(
                        sum(counts), WIDTHS, measure, len(ranks), 4, counts[r], "ring",
                        keep=kind == "float32",
                    )  # fmt: skip
                    assert rank[f"{measure} {counts} {kind}"]["flops"] == cost.product_flops


def test_multiplies_while_the_next_block_is_under_way(ranks: list[dict[str, Any]]) -> None:
    """The next block is asked for before the present one is multiplied, and waited for after it."""
    steps = len(ranks) - 1
    for rank in ranks:
        for log in rank["events"].values():
            trip = ["post", "multiply", "wait"] * steps + ["multiply"]
            assert log == trip + trip


def test_holds_less_than_the_gathered_features(ranks: list[dict[str, Any]]) -> None:
    world_size = len(ranks)
    block = WIDE_ROWS * WIDE * 4
    for rank in ranks:
        # Both variables of all ranks, one of them without its mean, and the gradient.
        assert rank["peak"]["gather"] > (3 * world_size + 1) * block
        # Two blocks of both variables (one with two ranks), two blocks without their mean while they are
        # multiplied, the product, the gradient; whatever the number of ranks.
        assert rank["peak"]["ring"] < (2 * min(2, world_size - 1) + 5) * block


def test_weights_of_zero(ranks: list[dict[str, Any]]) -> None:
    counts = COUNTS[len(ranks)][0]
    for name, pair in {"labels": (0.0, 2.0), "input": (0.7, 0.0)}.items():
        weights = {"lambda_x": pair[0], "lambda_y": pair[1]}
        value, all_terms, (_, *grads) = whole_step("cka", sum(counts), **weights)
        for j, grad in enumerate(grads):
            rows = torch.cat([rank["weights"][name]["grads"][j] for rank in ranks])
            assert relative_error(rows, grad) < 1e-6
        for rank in ranks:
            assert relative_error(rank["weights"][name]["value"], value) < 1e-6
            # Without weights the terms are told all the same, after one trip, and no gradient.
            assert relative_error(rank["weights"]["none"]["terms"], all_terms) < 1e-6
    for r, rank in enumerate(ranks):
        none = rank["weights"]["none"]
        assert none["value"] == 0
        assert "grads" not in none
        moved = exchange_of_ring(counts, r, WIDTHS, 4, 4, "cka", gradient=False)
        assert sum(none["received"]) == moved.bytes
        assert len(none["received"]) == moved.messages


@pytest.mark.parametrize("measure", MEASURES)
def test_ranks_may_want_different_gradients(ranks: list[dict[str, Any]], measure: str) -> None:
    counts = COUNTS[len(ranks)][0]
    value, _, grads = whole_step(measure, sum(counts))
    own = [t.split(counts) for t in grads]
    for r, rank in enumerate(ranks):
        result = rank["wanted"][measure]
        assert relative_error(result["value"], value) < 1e-6
        if r == len(ranks) - 1:
            continue
        wanted = (0, 2) if r == 0 else (1, 2)
        for got, v in zip(result["grads"], wanted, strict=True):
            assert relative_error(got, own[v][r]) < (5e-5 if measure == "nhsic" else 1e-6)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("name", ["Gaussian", "Linear", "InverseMultiquadric"])
def test_float_targets(ranks: list[dict[str, Any]], name: str, measure: str) -> None:
    counts = COUNTS[len(ranks)][0]
    x, z, y = (t.requires_grad_() for t in kernel_batch(sum(counts)))
    value = bx.BiDOLoss(measure, kernel_y=getattr(bx, name)())(x, [z], y)
    grads = torch.autograd.grad(value, [z, y])
    for rank in ranks:
        assert relative_error(rank["targets"][f"{name} {measure}"], value.detach()) < 1e-9
    for variable, grad in zip("zy", grads, strict=True):
        rows = torch.cat([rank["targets"][f"{name} {measure} {variable}"] for rank in ranks])
        assert relative_error(rows, grad) < 1e-7


def test_half_precision_features(ranks: list[dict[str, Any]]) -> None:
    counts = COUNTS[len(ranks)][0]
    x, layers, y = float32_features(sum(counts))
    z = [layer.bfloat16().requires_grad_() for layer in layers]
    value = bx.BiDOLoss(**settings("hsic"))(x, z, y)
    value.backward()
    for j, layer in enumerate(z):
        rows = torch.cat([rank["half"]["grads"][j] for rank in ranks])
        assert rows.dtype == torch.bfloat16
        assert relative_error(rows.float(), layer.grad.float()) < 4e-3
    for r, rank in enumerate(ranks):
        assert relative_error(rank["half"]["value"], value.detach()) < 1e-5
        # The layers pass round twice, in two bytes a feature; the input has four.
        moved = exchange_of_ring(counts, r, WIDTHS, 4, 4, "hsic")
        saved = 2 * (sum(counts) - counts[r]) * (9 + 6) * 2
        assert sum(rank["half"]["received"]) == moved.bytes - saved


def test_auto_takes_the_ring_where_gathering_does_not_fit(ranks: list[dict[str, Any]]) -> None:
    counts, world_size = COUNTS[len(ranks)][0], len(ranks)
    for r, rank in enumerate(ranks):
        gathered = cost_of_step(max(counts) * world_size, WIDTHS, "hsic", world_size).exchange.bytes
        ring = [
            exchange_of_ring(counts, r, WIDTHS, 4, 4, "hsic", keep, False).bytes
            for keep in (True, False)
        ]
        sizes = {name: sum(received) for name, received in rank["choices"].items()}
        assert sizes == {
            "auto": gathered,
            "workspace": ring[1],
            "roomy": gathered,
            "little memory": ring[0],
        }


def test_all_ranks_refuse_together(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        said = rank["refusals"]
        assert 'ValueError: exchange="ring" cannot serve: sigma="median" needs' in said["median"]
        assert "kernel_y is a Product, which has no form by rows" in said["kernel"]
        assert "WorkspaceError: one row of the Gram matrices against" in said["too little"]
        assert "features of layer '1' contain(s) NaN or Inf in step 1" in said["not finite"]
        assert said["far"] == "accepted"
        assert "d(X, Z) of layer '0' is not finite although its features are" in said["overflow"]
        assert "does not belong with that of rank(s)" in said["differ"]


def test_fully_shard_and_micro_batches(ranks: list[dict[str, Any]]) -> None:
    counts = COUNTS[len(ranks)][0]
    _, _, grads = single("hsic", sum(counts), torch.float64)
    for rank in ranks:
        assert relative_error(joined(rank["micro"][1:]), joined(grads)) < 1e-6
        if len(ranks) == 2:
            assert relative_error(joined(rank["fully_shard"]), joined(grads)) < 1e-6


def test_compiled_with_a_graph_break(ranks: list[dict[str, Any]]) -> None:
    if len(ranks) != 2:
        pytest.skip("once is enough")
    counts = COUNTS[2][0]
    for rank in ranks:
        eager = rank[f"hsic {counts} float32"]
        assert relative_error(rank["compiled"]["value"], eager["value"]) < 1e-6
        assert relative_error(rank["compiled"]["grad"], eager["grads"][0]) < 1e-6


def test_one_rank() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        x, (z, _), y = float32_features(9)
        x, z = x.double(), z.double().requires_grad_()
        for measure in MEASURES:
            ring = bx.BiDOLoss(measure, process_group=dist.group.WORLD, exchange="ring")
            value, want = ring(x, [z], y), bx.BiDOLoss(measure)(x, [z], y)
            assert relative_error(value.detach(), want.detach()) < 1e-9
            (grad,), (want_grad,) = (torch.autograd.grad(v, z) for v in (value, want))
            assert relative_error(grad, want_grad) < 1e-6
        (grad,) = torch.autograd.grad(ring(x, [z], y), z, create_graph=True)
        with pytest.raises(RuntimeError, match="does not require grad"):
            grad.sum().backward()
    finally:
        dist.destroy_process_group()
    with pytest.raises(ValueError, match="exchange must be one of"):
        bx.BiDOLoss(exchange="tree")


def test_plan_of_a_ring() -> None:
    widths, asked = [12288, 65536, 0], {"measure": "hsic", "world_size": 8}
    gather = bx.plan(4096, widths, **asked, exchange="gather")
    ring = bx.plan(4096, widths, **asked, exchange="ring")
    assert (gather.exchange, ring.exchange) == ("gather", "ring")
    assert "8 ranks pass features round a ring" in ring.reason
    row = 12288 + 2 * 65536
    assert ring.moved_bytes == 7 * (512 * (row * 4 + 8) + 8 * (3 * 512 + 2) + 32)
    assert ring.messages == 3 + 7 * 3
    assert ring.workspace_bytes < gather.workspace_bytes / 2
    assert bx.plan(4096, widths, **asked, workspace_bytes=1 << 30).exchange == "ring"
    assert bx.plan(4096, widths, **asked, workspace_bytes=2 << 30).exchange == "gather"
    streamed = bx.plan(4096, widths, **asked, workspace_bytes=1 << 20)
    assert streamed.kept_tiles == 0
    assert streamed.moved_bytes == ring.moved_bytes + 7 * 512 * 12288 * 4
    whole = bx.plan(1024, widths, measure="nhsic", world_size=8, exchange="ring")
    assert whole.regime == "dense"
    assert whole.moved_bytes == 7 * (128 * (row * 4 + 8) + 2 * 128 * 1024 * 8 + 32)
    assert bx.plan(1024, widths, measure="nhsic").exchange == ""
    with pytest.raises(ValueError, match="exchange must be one of"):
        bx.plan(64, [3, 0], world_size=2, exchange="tree")
    with pytest.raises(MemoryError, match="one row of the Gram matrices against 512 samples"):
        bx.plan(4096, widths, **asked, workspace_bytes=1000)


def test_largest_rank_decides_the_blocks() -> None:
    assert ring_blocks([9, 1, 8, 5], 4, 4, BOUND, False) == ring_blocks(
        [9, 9, 5], 4, 4, BOUND, False
    )
    assert ring_blocks([10, 10], 4, 4, None, False).keep
    assert ring_blocks([10, 10], 4, 4, 10, whole=True).keep


def test_masks_of_wanted_gradients() -> None:
    assert _unmask([_mask([False, True, False]), 0], 3) == {1}
    many = [False] * 70
    many[65] = True
    assert 65 in _unmask([_mask(many)], 70)
    assert 61 not in _unmask([_mask(many)], 70)
    assert _mask([True] * 70) < 1 << 63
    assert Shards((3, 0, 2), 1).rows_of(2) == slice(3, 5)

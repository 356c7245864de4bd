# SPDX-License-Identifier: Apache-2.0
"""Settings of BiDOLoss on two ranks against one process that has the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from global_batch import LAYERS, MEASURES, a_batch, a_model
from loss_of_ranks import COUNTS, SETTINGS, all_steps, features, targets_of_regression
from oracle import relative_error
from ranks import run_ranks

import bido_ext as bx

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="no torch.distributed")


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_ranks(all_steps, len(COUNTS))


def assert_equals_one_process(
    found: list[dict[str, Any]], measure: str, tolerance: float = 1e-7, **options: Any
) -> None:
    x, layers, y = features()
    z = [t.requires_grad_() for t in layers]
    value = bx.BiDOLoss(measure, 0.7, 2.0, **options)(x, z, y)
    grads = torch.autograd.grad(value, z)
    for result in found:
        assert relative_error(result["value"], value.detach()) < tolerance
    for j, grad in enumerate(grads):
        rows = torch.cat([result["grads"][j] for result in found])
        assert relative_error(rows, grad) < tolerance


@pytest.mark.parametrize("how", ["gather", "ring"])
@pytest.mark.parametrize("measure", MEASURES)
def test_one_hot_targets_are_labels(ranks: list[dict[str, Any]], measure: str, how: str) -> None:
    # Labels have a closed form; targets are factorised.
    assert_equals_one_process([r[f"one-hot {measure} {how}"] for r in ranks], measure, 1e-6)


@pytest.mark.parametrize("how", ["gather", "ring"])
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_kernels(ranks: list[dict[str, Any]], name: str, measure: str, how: str) -> None:
    found = [r.get(f"{name} {measure} {how}") for r in ranks]
    if found[0] is not None:  # the ring refuses some
        assert_equals_one_process(found, measure, 1e-6, **SETTINGS[name])  # type: ignore[arg-type]


def test_a_linear_kernel_of_the_layers_is_gathered(ranks: list[dict[str, Any]]) -> None:
    assert_equals_one_process([r["linear auto"] for r in ranks], "hsic", **SETTINGS["linear"])
    for rank in ranks:
        assert "kernel_z is a Linear, and only Gaussian and InverseMultiquadric" in rank["refused"]


@pytest.mark.parametrize("how", ["gather", "ring"])
@pytest.mark.parametrize("measure", MEASURES)
def test_targets_of_any_scale(ranks: list[dict[str, Any]], measure: str, how: str) -> None:
    """In float32, against float64; the Gram matrix of the targets is singular."""
    x, (z, _), _ = features()
    z.requires_grad_()
    value = bx.BiDOLoss(measure, 0.0, 1.0)(x, [z], targets_of_regression().double())
    (grad,) = torch.autograd.grad(value, z)
    found = [r[f"regression {measure} {how}"] for r in ranks]
    for result in found:
        assert relative_error(result["value"].double(), value.detach()) < 1e-5
    rows = torch.cat([result["grad"] for result in found]).double()
    assert relative_error(rows, grad) < 5e-5


@pytest.mark.parametrize("how", ["gather", "ring"])
def test_one_sample_over_all_ranks(ranks: list[dict[str, Any]], how: str) -> None:
    for rank in ranks:
        result = rank[f"lone {how}"]
        assert float(result["value"]) == 0
        assert not result["grad"].any()
        assert ["drop_last=True" in text for text in result["said"]] == [True]


@pytest.mark.parametrize("how", ["gather", "ring"])
def test_warm_up(ranks: list[dict[str, Any]], how: str) -> None:
    for rank in ranks:
        value, grad, *later = rank[f"warm-up {how}"]
        assert later == pytest.approx([2 * value, 2 * grad] * 2, rel=1e-6)


@pytest.mark.parametrize("how", ["gather", "ring"])
def test_one_hot_targets_in_micro_batches(ranks: list[dict[str, Any]], how: str) -> None:
    x, y = a_batch(sum(COUNTS), torch.float64)
    model = a_model(torch.float64)
    taps = bx.FeatureTaps(model, LAYERS)
    task = torch.nn.functional.cross_entropy(model(x), y)
    (task + bx.BiDOLoss("hsic", 0.7, 2.0, 0.5)(x, taps.features, y)).backward()
    for rank in ranks:
        for found, p in zip(rank[f"micro {how}"], model.parameters(), strict=True):
            assert relative_error(found, p.grad) < 1e-6  # type: ignore[arg-type]


def test_a_loss_that_made_a_step_is_copied_and_saved(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        for name in ("text", "group", "some ranks"):
            first, *others = rank["pickled"][name]
            assert others
            assert all(torch.equal(value, first) for value in others)
        assert "a process_group of some ranks cannot be pickled" in rank["pickled"]["error"]


def test_what_the_documents_say_of_unused_parameters(ranks: list[dict[str, Any]]) -> None:
    """find_unused_parameters=True takes a tapped head for unused unless its output is returned."""
    for rank in ranks:
        assert "ready only once" in rank["unused"].pop("False True")
        assert set(rank["unused"].values()) == {"fine"}

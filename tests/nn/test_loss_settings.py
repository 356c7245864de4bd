# SPDX-License-Identifier: Apache-2.0
"""Kernels of X and of the layers, a bandwidth for each layer, the warm-up, and the numbers for a log."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from oracle import relative_error
from torch import Tensor, nn

import bido_ext as bx

MEASURES = ["hsic", "nhsic", "coco", "cka"]
each_measure = pytest.mark.parametrize("measure", MEASURES)


class Own(bx.Kernel):
    """A user's kernel."""

    def gram_up_to_centering(self, x: Tensor) -> Tensor:
        return (x @ x.T).square()


def a_step() -> tuple[Tensor, dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(14, 6, generator=generator).double()
    z = {n: torch.rand(14, d, generator=generator).double() for n, d in (("a", 5), ("b", 3))}
    return x, {n: t.requires_grad_() for n, t in z.items()}, torch.arange(14) % 3


@each_measure
@pytest.mark.parametrize("kernel_x", [None, bx.Linear(), bx.InverseMultiquadric(), Own()])
@pytest.mark.parametrize(
    "kernel_z", [None, bx.Linear(), bx.Gaussian(1.0, scale_by_dim=False), Own()]
)
def test_kernels_of_input_and_layers(
    measure: str, kernel_x: bx.Kernel | None, kernel_z: bx.Kernel | None
) -> None:
    x, z, y = a_step()
    criterion = bx.BiDOLoss(measure, 1.0, 2.0, kernel_x=kernel_x, kernel_z=kernel_z)
    value = criterion(x, z, y)
    f = getattr(bx, measure)
    expected = sum(f(t, x, kernel_z, kernel_x) - 2 * f(t, y, kernel_z) for t in z.values())
    assert relative_error(value.detach(), expected.detach()) < 1e-7
    found, want = (torch.autograd.grad(v, list(z.values())) for v in (value, expected))
    for a, b in zip(found, want, strict=True):
        assert relative_error(a, b) < 1e-5


@each_measure
def test_a_bandwidth_for_each_layer(measure: str) -> None:
    x, z, y = a_step()
    sigma = {"b": 3.0, "a": 0.5, "not run": 1.0}
    criterion = bx.BiDOLoss(measure, sigma=sigma)  # type: ignore[arg-type]
    criterion(x, z, y)
    for name, t in z.items():
        kernel = bx.Gaussian(sigma[name])
        terms = criterion.terms[name]
        assert relative_error(terms.y, getattr(bx, measure)(t, y, kernel).detach()) < 1e-7
        expected = getattr(bx, measure)(t, x, kernel, bx.Gaussian(5.0)).detach()
        assert relative_error(terms.x, expected) < 1e-7


def test_sigma_stays_the_bandwidth_of_what_has_no_kernel() -> None:
    x, z, y = a_step()
    criterion = bx.BiDOLoss("hsic", sigma=2.0, kernel_z=bx.Linear())
    criterion(x, z, y)
    expected = bx.hsic(z["a"], x, bx.Linear(), bx.Gaussian(2.0)).detach()
    assert relative_error(criterion.terms["a"].x, expected) < 1e-7
    assert "kernel_x=Gaussian(sigma=2.0, scale_by_dim=True), kernel_z=Linear()" in repr(criterion)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"kernel_x": "rbf"}, TypeError, "kernel_x must be a kernel"),
        ({"kernel_z": bx.Gaussian}, TypeError, "kernel_z must be a kernel"),
        ({"sigma": {}}, ValueError, "sigma is an empty dict"),
        ({"sigma": {"a": -1.0}}, ValueError, r"sigma\['a'\] must be positive"),
        ({"sigma": {0: 1.0}}, TypeError, "sigma must be a dict from layer names to bandwidths, got int"),
        ({"sigma": {"a": 1.0}, "kernel_z": bx.Linear()}, ValueError, "give one of the two"),
        (
            {"sigma": 3.0, "kernel_x": bx.Linear(), "kernel_z": bx.Linear()},
            ValueError,
            "sigma=3.0 has no effect",
        ),
        ({"warmup_steps": -1}, ValueError, "warmup_steps must not be negative, got -1"),
        ({"warmup_steps": 1.5}, TypeError, "warmup_steps must be an integer, got float"),
        ({"warmup_steps": True}, TypeError, "warmup_steps must be an integer, got bool"),
    ],
)  # fmt: skip
def test_bad_settings(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bx.BiDOLoss(**settings)


def test_a_layer_without_a_bandwidth_is_named() -> None:
    x, z, y = a_step()
    with pytest.raises(ValueError, match=r"without an entry for layer\(s\) b; it has a, c"):
        bx.BiDOLoss(sigma={"a": 1.0, "c": 2.0})(x, z, y)


def steps_of(criterion: nn.Module, count: int, step: Any = None) -> list[float]:
    x, z, y = a_step()
    return [float((criterion if step is None else step)(x, z, y).detach()) for _ in range(count)]


@each_measure
@pytest.mark.parametrize("compiled", [False, True])
def test_the_weights_grow_linearly(measure: str, compiled: bool) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    criterion = bx.BiDOLoss(measure, warmup_steps=4)
    step = torch.compile(criterion, fullgraph=True, backend="aot_eager") if compiled else None
    (whole,) = steps_of(bx.BiDOLoss(measure), 1)
    wanted = [whole * part for part in (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)]
    assert steps_of(criterion, 6, step) == pytest.approx(wanted, rel=1e-6)
    if compiled:  # no graph a step
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_the_gradient_warms_up_and_terms_do_not() -> None:
    x, z, y = a_step()
    warm, plain = bx.BiDOLoss("hsic", warmup_steps=2), bx.BiDOLoss("hsic")
    for part in (0.5, 1.0):
        (found,) = torch.autograd.grad(warm(x, z, y), z["a"])
        (whole,) = torch.autograd.grad(plain(x, z, y), z["a"])
        torch.testing.assert_close(found, part * whole)
        assert warm.terms == plain.terms


def test_only_training_steps_count() -> None:
    x, z, y = a_step()
    criterion = bx.BiDOLoss("hsic", warmup_steps=2)
    (whole,) = steps_of(bx.BiDOLoss("hsic"), 1)
    with torch.no_grad():
        assert steps_of(criterion, 2) == pytest.approx([whole / 2] * 2)
    criterion.eval()
    assert steps_of(criterion, 2) == pytest.approx([whole / 2] * 2)
    criterion.train()
    torch.func.grad(lambda t: criterion(x, {**z, "a": t}, y))(z["a"].detach())
    assert steps_of(criterion, 1) == pytest.approx([whole])
    with pytest.raises(ValueError, match="same number"):
        criterion(x, z, y[:3])


def test_the_warm_up_goes_on_where_it_was() -> None:
    criterion = bx.BiDOLoss("hsic", warmup_steps=4)
    steps_of(criterion, 2)
    resumed = bx.BiDOLoss("hsic", warmup_steps=4)
    resumed.load_state_dict(criterion.state_dict())
    expected = steps_of(copy.deepcopy(criterion), 3)
    assert steps_of(resumed, 3) == steps_of(criterion, 3) == expected
    assert bx.BiDOLoss("hsic").state_dict() == {}  # older files fit


def test_numbers_for_a_log() -> None:
    x, z, y = a_step()
    criterion = bx.BiDOLoss("hsic", 0.5, 2.0)
    assert criterion.log() == {}
    value = criterion(x, z, y)
    numbers = criterion.log()
    assert list(numbers) == ["bido", "bido_x/a", "bido_x/b", "bido_y/a", "bido_y/b"]
    assert all(type(number) is float for number in numbers.values())
    assert numbers["bido"] == pytest.approx(float(value.detach()))
    assert numbers["bido_y/b"] == pytest.approx(float(criterion.terms["b"].y))
    torch._dynamo.reset()
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    compiled(x, z, y)
    assert criterion.log() == pytest.approx(numbers)


@pytest.mark.parametrize("settings", [{}, {"warmup_steps": 3}, {"sigma": {"a": 1.0, "b": 2.0}}])
def test_no_step_reads_a_number_from_the_device(settings: dict[str, Any]) -> None:
    """On the meta device nothing can be read: what a step reads would raise."""
    x, z, y = a_step()
    on_meta = {name: t.detach().to("meta").requires_grad_() for name, t in z.items()}
    bx.BiDOLoss("hsic", **settings)(x.to("meta"), on_meta, y.to("meta")).backward()
    assert all(t.grad is not None for t in on_meta.values())

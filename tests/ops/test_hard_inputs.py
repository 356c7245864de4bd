# SPDX-License-Identifier: Apache-2.0
"""Inputs whose float32 result was wrong in silence, or refused with a wrong reason; the truth beside each."""

from __future__ import annotations

from typing import Any

import property_cases as cases
import pytest
import torch
from compositions import serve_compositions
from oracle import relative_error
from torch import Tensor

import bido_ext as bx

#: Relative errors allowed of float32, (value, gradient).
TOLERANCES = {
    "hsic": (1e-5, 1e-5),
    "cka": (1e-5, 1e-5),
    "coco": (1e-5, 1e-5),
    "nhsic": (1e-4, 5e-5),
}
MEASURES = tuple(TOLERANCES)


@pytest.fixture(params=["native", "composition"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "composition":
        serve_compositions(monkeypatch)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def factor(K: Tensor, eps: float) -> Tensor:
    """Kc (Kc + eps n I)^-1 by a solution, which does not cancel where K is small."""
    Kc = cases._center(K)
    return torch.linalg.solve(Kc + eps * len(K) * torch.eye(len(K), dtype=K.dtype), Kc)


def assert_right(
    measure: str,
    x: Tensor,
    y: Tensor,
    kernel: bx.Kernel | None = None,
    eps: float = 1e-5,
    floor: float = 0.0,
) -> None:
    """Value and gradient of float32 or less against float64 by direct differences."""
    kernel = kernel or bx.Gaussian(5.0)
    leaf = x.clone().requires_grad_()
    settings: dict[str, Any] = {"norm": "fro"} if measure == "coco" else {}
    if measure == "nhsic":
        settings["eps"] = eps
    value = getattr(bx, measure)(leaf, y, kernel_x=kernel, **settings)
    value.backward()
    assert leaf.grad is not None
    wide = x.double()
    K = cases._gram(wide, kernel).requires_grad_()
    L = (
        (y[:, None] == y[None]).double()
        if y.dim() == 1
        else cases._gram(y.double(), bx.Gaussian(5.0))
    )
    truth = {
        "hsic": bx.reference.hsic,
        "cka": bx.reference.cka,
        "coco": lambda K, L: bx.reference.coco(K, L, "fro"),
        "nhsic": lambda K, L: (factor(K, eps) * factor(L, eps).T).sum(),
    }[measure](K, L)
    (G,) = torch.autograd.grad(truth, K)
    gradient, _ = cases._of_features(wide, kernel, K.detach(), G, G.abs())
    of_value, of_gradient = TOLERANCES[measure]
    assert relative_error(value.detach(), truth.detach()) < of_value
    assert relative_error(leaf.grad, gradient) < of_gradient + floor


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("offset", [1e3, 1e4, 1e5, 1e6])
def test_a_common_offset_costs_no_digits(measure: str, offset: float) -> None:
    assert_right(measure, normal(64, 8) + offset, torch.arange(64) % 5)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_last_layer_of_a_sigmoid_network(measure: str) -> None:
    """Activations near 0.5 that differ in the fifth digit: the gradient was 22 % wrong."""
    torch.manual_seed(0)
    x = torch.rand(64, 100)
    for _ in range(8):
        x = torch.sigmoid(torch.nn.Linear(x.shape[1], 100)(x)).detach()
    assert_right(measure, x, torch.arange(64) % 5)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("constant", [1000.0, 0.1, 1e-20, 3e30])
def test_a_dead_layer_has_no_gradient(measure: str, constant: float) -> None:
    x = torch.full((64, 40), constant, requires_grad=True)
    value = getattr(bx, measure)(x, torch.arange(64) % 5)
    value.backward()
    assert abs(float(value.detach())) < 1e-12
    assert x.grad is not None
    assert float(x.grad.abs().max()) < 1e-12


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("size", [1e4, 6e4, 1e5, 1e6, 1e8])
@pytest.mark.parametrize("row", [0, 3])
def test_an_outlier_moves_no_other_sample(measure: str, size: float, row: int) -> None:
    x = normal(64, 40)
    x[row, 5] = size
    assert_right(measure, x, torch.arange(64) % 5)


@pytest.mark.parametrize("measure", MEASURES)
def test_outliers_of_half_precision(measure: str) -> None:
    x = normal(64, 40)
    x[3, 5] = 6e4
    # The floor is the rounding of the gradient itself; float16 does not hold gradients this small.
    assert_right(measure, x.bfloat16(), torch.arange(64) % 5, floor=4e-3)
    value = getattr(bx, measure)(x.half(), torch.arange(64) % 5)
    assert (
        relative_error(value, getattr(bx, measure)(x.half().double(), torch.arange(64) % 5)) < 1e-6
    )


@pytest.mark.parametrize("measure", MEASURES)
def test_clusters_and_many_outliers(measure: str) -> None:
    x = normal(64, 40)
    x[:32] += 1e4
    assert_right(measure, x, torch.arange(64) % 5)
    x[::3, 7] += 1e5
    assert_right(measure, x, torch.arange(64) % 5)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("sigma", [0.3, 0.5, 1.0, 2.0, 1e3])
def test_bandwidths(measure: str, sigma: float) -> None:
    assert_right(measure, normal(256, 40), torch.arange(256) % 5, bx.Gaussian(sigma))


@pytest.mark.parametrize("measure", MEASURES)
def test_the_smallest_bandwidth(measure: str) -> None:
    """K = I: a value, and a gradient of 0 instead of NaN."""
    x = normal(64, 40).requires_grad_()
    getattr(bx, measure)(x, torch.arange(64) % 5, sigma=1e-30).backward()
    assert x.grad is not None
    assert not bool(x.grad.any())


@pytest.mark.parametrize("scale", [1e-20, 1e-12, 1e12, 1e20])
def test_cka_is_free_of_scale(scale: float) -> None:
    x, y = normal(16, 8), normal(16, 5)
    for kernel in (bx.Linear(), bx.Gaussian(5.0)):
        if isinstance(kernel, bx.Gaussian) and scale > 1:
            continue
        leaf = (x * scale).requires_grad_()
        value = bx.cka(leaf, y, kernel_x=kernel, kernel_y=bx.Linear())
        value.backward()
        wide = leaf.detach().double().requires_grad_()
        truth = bx.cka(wide, y.double(), kernel_x=kernel, kernel_y=bx.Linear())
        truth.backward()
        assert relative_error(value.detach(), truth.detach()) < 1e-6
        assert relative_error(leaf.grad, wide.grad) < 1e-5


@pytest.mark.parametrize("scale", [1, 3, 10, 32, 100, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_nhsic_of_linear_kernels_at_every_scale(scale: float, offset: float) -> None:
    """From scale 100 on S is the projection on the features, so the value no longer changes: 3.345513."""
    torch.manual_seed(0)
    x, y = torch.randn(16, 8) * scale + offset * scale, torch.randn(16, 5)
    case = cases.Case(
        "nhsic", 16, 0, cases.Data(8, 8, 0, 0, 0, 0, False), "linear", 0, False,
        cases.Data(5, 5, 0, 0, 0, 0, False), "linear",
    )  # fmt: skip
    true = cases.truth(case, x, y)
    leaf = x.clone().requires_grad_()
    value = bx.nhsic(leaf, y, kernel_x=bx.Linear(), kernel_y=bx.Linear())
    value.backward()
    assert abs(float(value.detach()) - true.value) < 1e-5 * true.value
    assert relative_error(leaf.grad, true.gradient) < 1e-5
    if scale >= 100 and offset == 0:
        assert abs(true.value - 3.345513) < 2e-6


def test_nhsic_of_regression_targets_stays_in_its_range() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(64, 10), torch.randn(64, 1) * 30
    value = bx.nhsic(x, y, kernel_y=bx.Linear())
    assert 0 <= float(value) <= 63
    assert relative_error(value, bx.nhsic(x.double(), y.double(), kernel_y=bx.Linear())) < 1e-4


@pytest.mark.parametrize("eps", [1e-7, 1e-9])
def test_a_small_ridge(eps: float) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(64, 1), torch.randn(64, 1)
    value, truth = bx.nhsic(x, y, eps=eps), bx.nhsic(x.double(), y.double(), eps=eps)
    assert relative_error(value, truth) < 1e-5


def test_refusals_have_the_true_reason() -> None:
    x, y = normal(64, 1), normal(64, 1)
    with pytest.raises(
        ValueError, match=r"is not resolved by float64.*ridge eps n, eps=1e-14.*Raise eps"
    ):
        bx.nhsic(x, y, eps=1e-14)
    with pytest.raises(ValueError, match=r"hsic is .*, which float32 does not hold: pass float64"):
        bx.hsic(normal(16, 8) * 1e21, normal(16, 5), kernel_x=bx.Linear())
    with pytest.raises(ValueError, match="The squares of x overflow float64"):
        bx.hsic(x.double() * 1e200, y)

    class Rounded(bx.Kernel):
        """A user's kernel that makes its Gram matrix in float32 whatever it is given."""

        def gram_up_to_centering(self, x: Tensor) -> Tensor:
            x = x.float() - x.float().mean(0)
            return 1e4 * x @ x.T

    with pytest.raises(
        ValueError, match=r"the Gram matrix given for x.*float32.*Make it in float64"
    ):
        bx.nhsic(x, torch.arange(64) % 3, kernel_x=Rounded())


def test_no_value_is_wrong_without_the_check_either() -> None:
    """guard=False and compiled graphs give NaN where a function raises."""
    x, y = normal(64, 3), torch.arange(64) % 3
    loss = bx.BiDOLoss("nhsic", eps=1e-14, guard=False)
    assert bool(loss(x, [normal(64, 4).requires_grad_()], y).isnan())
    compiled = torch.compile(
        lambda x: bx.nhsic(x, y, eps=1e-14), fullgraph=True, backend="aot_eager"
    )
    assert bool(compiled(x).isnan())


def test_a_compiled_graph_is_right_where_float32_is_not() -> None:
    x, y = normal(64, 8) + 1e5, torch.arange(64) % 3
    x[3, 5] = 1e7

    def both(function: Any) -> tuple[Tensor, Tensor]:
        leaf = x.clone().requires_grad_()
        value = function(leaf)
        value.backward()
        assert leaf.grad is not None
        return value.detach(), leaf.grad

    eager = both(lambda x: bx.nhsic(x, y))
    compiled = both(torch.compile(lambda x: bx.nhsic(x, y), fullgraph=True, backend="aot_eager"))
    for a, b in zip(eager, compiled, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    grad = torch.func.grad(lambda x: bx.nhsic(x, y))(x)
    torch.testing.assert_close(grad, eager[1], rtol=0, atol=0)


@pytest.mark.parametrize("measure", ["hsic", "cka"])
def test_streaming(measure: str) -> None:
    x = normal(700, 20) + 1e4
    x[5, 3] = 1e6
    y = torch.arange(700) % 7
    wide, leaf = x.double().requires_grad_(), x.clone().requires_grad_()
    truth = getattr(bx, measure)(wide, y)
    truth.backward()
    value = getattr(bx, measure)(leaf, y, workspace_bytes=1 << 20)
    value.backward()
    assert relative_error(value.detach(), truth.detach()) < 1e-6
    assert relative_error(leaf.grad, wide.grad) < 1e-5


@pytest.mark.parametrize("n", [4, 5, 40, 300])
@pytest.mark.parametrize("measure", ["hsic", "cka"])
def test_unbiased_beside_one_far_sample(measure: str, n: int) -> None:
    """Off-diagonal centering takes away all that one sample does; what is left needs its digits."""
    x, y = normal(n, 1), 1e-3 * normal(n, 1)
    y[2] = 3.0
    wide = x.double().requires_grad_()
    leaf = x.clone().requires_grad_()
    kernel = bx.Gaussian(1.0)
    kernels = {"kernel_x": kernel, "kernel_y": kernel, "estimator": "unbiased"}
    truth = getattr(bx, measure)(wide, y.double(), **kernels)
    truth.backward()
    value = getattr(bx, measure)(leaf, y, **kernels)
    value.backward()
    assert relative_error(value.detach(), truth.detach()) < 1e-6
    assert relative_error(leaf.grad, wide.grad) < 1e-5


@pytest.mark.parametrize("measure", ["hsic", "coco"])
def test_weights_beyond_float32(measure: str) -> None:
    """The gradient is a float32, the weights that it is made of are not."""
    x, y = 5e-10 * normal(6, 1), 8e10 * normal(6, 1)
    kernels = {"kernel_x": bx.Gaussian(5e-10), "kernel_y": bx.Linear()}
    wide, leaf = x.double().requires_grad_(), x.clone().requires_grad_()
    getattr(bx, measure)(wide, y.double(), **kernels).backward()
    getattr(bx, measure)(leaf, y, **kernels).backward()
    assert relative_error(leaf.grad, wide.grad) < 1e-5


@pytest.mark.parametrize("measure", ["hsic", "cka"])
def test_duplicates_do_not_hide_that_kernels_are_small(measure: str) -> None:
    """Equal rows have K = 1 and no part in the gradient; that of the others needs its digits."""
    x, y = normal(4, 3), torch.tensor([0, 1, 1, 0])
    x[2] = x[0]
    kernel = bx.Gaussian(0.4, scale_by_dim=False)
    wide, leaf = x.double().requires_grad_(), x.clone().requires_grad_()
    getattr(bx, measure)(wide, y, kernel_x=kernel).backward()
    getattr(bx, measure)(leaf, y, kernel_x=kernel).backward()
    assert relative_error(leaf.grad, wide.grad) < 1e-5

# SPDX-License-Identifier: Apache-2.0
"""Arguments in other shapes of memory give the same bits; those that do not fit are refused, not read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import bido_ext as bx
from bido_ext import _C
from bido_ext.reference.kernel_entries import GAUSSIAN, INVERSE_MULTIQUADRIC, LABELS, LINEAR

N = 12
FIRST, SECOND, WANTED, KINDS = [0, 0, 1], [1, 2, 2], [0, 1], [GAUSSIAN, LINEAR, LABELS]


def views_of(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """Tensors of a shape that are no plain blocks of memory: one number expanded, as the gradient of a sum is;
    every second entry of a larger one; the transpose of one."""
    one = torch.full((), 0.37, dtype=dtype).expand(shape)
    wide = torch.randn(*shape[:-1], 2 * shape[-1], dtype=dtype)[..., ::2]
    views = [one, wide]
    if len(shape) > 1:
        views += [
            torch.randn(shape, dtype=dtype).mT,
            torch.randn(1, shape[-1], dtype=dtype).expand(shape),
        ]
    return views


def plain(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def scattered(x: Tensor) -> Tensor:
    """The same numbers at every second place."""
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), math.nan, dtype=x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def group() -> tuple[list[Tensor], Tensor]:
    variables = [torch.randn(N, 7), torch.randn(N, 5), torch.arange(N) % 3]
    return variables, torch.tensor([0.1, 1, 1], dtype=torch.float64)


def assert_same(got: Any, wanted: Any) -> None:
    for g, w in zip(got, wanted, strict=True):
        assert torch.equal(g, w)


def test_gaussian_gram_backward_of_views(kernels: Any) -> None:
    x, gamma = torch.randn(N, 7), torch.tensor(0.1, dtype=torch.float64)
    K = kernels.gaussian_gram(x, gamma, True)
    for grad in views_of((N, N), torch.float32):
        wanted = kernels.gaussian_gram_backward(plain(grad), K, x, gamma, True)
        assert torch.equal(kernels.gaussian_gram_backward(grad, K, x, gamma, True), wanted)
        assert torch.equal(
            kernels.gaussian_gram_backward(grad, scattered(K), x, gamma, True), wanted
        )


def test_gram_stack_backward_of_views(kernels: Any) -> None:
    variables, parameters = group()
    args = (variables[:2], parameters[:2], KINDS[:2])
    stack = kernels.gram_stack(*args)
    for grad in views_of((2, N, N), torch.float32):
        wanted = kernels.gram_stack_backward(plain(grad), stack, *args)
        assert_same(kernels.gram_stack_backward(grad, stack, *args), wanted)
        assert_same(kernels.gram_stack_backward(grad, scattered(stack), *args), wanted)


@pytest.mark.parametrize(("tile", "kept_tiles"), [(N, -1), (5, 0)])
def test_hsic_backward_of_views(kernels: Any, tile: int, kept_tiles: int) -> None:
    variables, parameters = group()
    args = (KINDS, FIRST, SECOND, False, tile)
    _, sums, kept = kernels.hsic(variables, parameters, *args, kept_tiles)
    for grad in views_of((3,), torch.float64):
        wanted = kernels.hsic_backward(
            plain(grad), variables, parameters, sums, kept, *args, WANTED
        )
        assert_same(
            kernels.hsic_backward(grad, variables, parameters, sums, kept, *args, WANTED),
            wanted,
        )
        again = kernels.hsic_backward(
            grad, variables, parameters, scattered(sums), scattered(kept), *args, WANTED
        )
        assert_same(again, wanted)


def test_nhsic_backward_of_views(cuda_kernels: Any) -> None:
    variables, parameters = group()
    args = ([GAUSSIAN, INVERSE_MULTIQUADRIC, LABELS], FIRST, SECOND, 1e-3)
    _, *kept = cuda_kernels.nhsic(variables, parameters, *args, True, WANTED)
    for grad in views_of((3,), torch.float64):
        wanted = cuda_kernels.nhsic_backward(
            plain(grad), variables, parameters, *kept, *args, WANTED
        )
        views = map(scattered, kept)
        again = cuda_kernels.nhsic_backward(grad, variables, parameters, *views, *args, WANTED)
        assert_same(again, wanted)


def test_double_center_of_views(kernels: Any) -> None:
    for K in views_of((N, N), torch.float32):
        assert torch.equal(kernels.double_center(K), kernels.double_center(plain(K)))


def leaves() -> tuple[list[Tensor], Tensor]:
    variables, parameters = group()
    return [v.requires_grad_() if v.is_floating_point() else v for v in variables], parameters


def of_gaussian_gram() -> tuple[list[Tensor], Tensor]:
    variables, parameters = leaves()
    return variables[:1], torch.ops.bido_ext.gaussian_gram(variables[0], parameters[0], True)


def of_gram_stack() -> tuple[list[Tensor], Tensor]:
    variables, parameters = leaves()
    return variables[:2], torch.ops.bido_ext.gram_stack(variables, parameters, KINDS)


def of_hsic() -> tuple[list[Tensor], Tensor]:
    variables, parameters = leaves()
    pairs = (KINDS, FIRST, SECOND)
    return variables[:2], torch.ops.bido_ext.hsic(variables, parameters, *pairs, False, 5, 1)[0]


def of_nhsic() -> tuple[list[Tensor], Tensor]:
    variables, parameters = leaves()
    pairs = (KINDS, FIRST, SECOND)
    return variables[:2], torch.ops.bido_ext.nhsic(
        variables, parameters, *pairs, 1e-3, True, WANTED
    )[0]


def of_coco() -> tuple[list[Tensor], Tensor]:
    variables, parameters = leaves()
    pairs = (KINDS, FIRST, SECOND)
    return variables[:2], torch.ops.bido_ext.coco(
        variables, parameters, *pairs, "fro", True, WANTED
    )[0]


def of_double_center() -> tuple[list[Tensor], Tensor]:
    K = torch.randn(N, N, requires_grad=True)
    return [K], torch.ops.bido_ext.double_center(K)


@pytest.mark.parametrize(
    "make", [of_gaussian_gram, of_gram_stack, of_hsic, of_nhsic, of_coco, of_double_center]
)
def test_gradients_that_are_views_on_the_cpu(
    make: Callable[[], tuple[list[Tensor], Tensor]],
) -> None:
    variables, value = make()
    for grad in views_of(tuple(value.shape), value.dtype):
        wanted = torch.autograd.grad(value, variables, plain(grad), retain_graph=True)
        assert_same(torch.autograd.grad(value, variables, grad, retain_graph=True), wanted)


@pytest.mark.parametrize("measure", ["hsic", "nhsic", "coco", "cka"])
def test_the_gradient_of_a_sum_of_measures(measure: str) -> None:
    variables, _ = leaves()
    x, z, y = variables
    values = [getattr(bx, measure)(x, z), getattr(bx, measure)(x, y)]
    wanted = torch.autograd.grad(values[0] + values[1], [x, z], retain_graph=True)
    assert_same(torch.autograd.grad(torch.stack(values).sum(), [x, z]), wanted)


ONE = torch.ones(3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("hsic_backward", {"tiles": torch.zeros(2, 1, N, N, dtype=torch.float64)}, "kept matrices"),
        ("hsic_backward", {"wanted": [0, 0]}, "wanted twice"),
        ("hsic_backward", {"wanted": [3]}, "not there"),
        ("nhsic_backward", {"wanted": [1, 1]}, "wanted twice"),
        ("nhsic", {"wanted": [0] * 70}, "wanted twice"),
        ("gram_stack_backward", {"stack": torch.zeros(2, N + 1, N + 1)}, r"\(m, n, n\)"),
        ("gram_stack_backward", {"stack": torch.zeros(2, N)}, r"\(m, n, n\)"),
        ("gram_stack_backward", {"grad": torch.zeros(2, N - 1, N)}, r"\(m, n, n\)"),
        ("gaussian_gram_backward", {"gram": torch.zeros(N + 1, N + 1)}, r"\(n, n\)"),
        ("gaussian_gram_backward", {"grad": torch.zeros(N * N)}, r"\(n, n\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    cuda_kernels: Any, name: str, change: dict[str, Any], message: str
) -> None:
    variables, parameters = group()
    pairs: dict[str, Any] = {"kinds": KINDS, "first": FIRST, "second": SECOND}
    two: dict[str, Any] = {
        "variables": variables[:2],
        "parameters": parameters[:2],
        "kinds": KINDS[:2],
    }
    matrices, of_all = (
        torch.zeros(2, N, N, dtype=torch.float64),
        {"variables": variables, "parameters": parameters},
    )
    arguments: dict[str, dict[str, Any]] = {
        "gaussian_gram_backward": {
            "grad": torch.zeros(N, N), "gram": torch.zeros(N, N), "x": variables[0], "gamma": parameters[0],
            "minus_one": True,
        },
        "gram_stack_backward": {"grad": torch.zeros(2, N, N), "stack": torch.zeros(2, N, N), **two},
        "hsic_backward": {
            "grad": ONE, **of_all, "sums": torch.zeros(3, N, dtype=torch.float64),
            "tiles": torch.zeros(2, 1, N, N), **pairs, "unbiased": False, "tile": N, "wanted": WANTED,
        },
        "nhsic": {**of_all, **pairs, "eps": 1e-3, "wide": True, "wanted": WANTED},
        "nhsic_backward": {
            "grad": ONE, **of_all, "stack": matrices.float(), "inverses": matrices, "factors": matrices, **pairs,
            "eps": 1e-3, "wanted": WANTED,
        },
    }  # fmt: skip
    with pytest.raises(RuntimeError, match=message):
        cuda_kernels.functions[name](*(arguments[name] | change).values())


@pytest.mark.gpu
def test_tensors_of_another_device_are_refused() -> None:
    if not hasattr(torch.ops.bido_cuda, "gaussian_gram_backward"):
        pytest.skip("bido_cuda was not built on this machine")
    x, gamma = torch.randn(N, 7).cuda(), torch.tensor(0.1, dtype=torch.float64).cuda()
    K = torch.zeros(N, N)
    for grad, gram in ((K, K.cuda()), (K.cuda(), K)):
        with pytest.raises(RuntimeError, match="on one device"):
            torch.ops.bido_cuda.gaussian_gram_backward(grad, gram, x, gamma, True, False)


def test_more_rows_than_a_grid_has_segments_are_refused(cuda_kernels: Any) -> None:
    x = torch.empty(1).expand(65535 * 1024 + 1, 1)
    with pytest.raises(RuntimeError, match="the rows must be 1 to 67107840, got 67107841"):
        cuda_kernels.gaussian_gram(x, torch.tensor(0.1, dtype=torch.float64), True)


@pytest.mark.parametrize("processors", [58, 84, 108, 132, 148, 188])
@pytest.mark.parametrize(
    "dims", [[2048] * 6, [512, 3], [12288, 65536, 2048, 0], [16] * 20, [100, 0]]
)
def test_the_plan_has_room_for_the_products_of_shared_columns(
    processors: int, dims: list[int]
) -> None:
    """split_grams of csrc/cuda/gram_products.cu: their bytes beside the Gram matrices, on GPUs of several sizes."""
    features = [d for d in dims if d > 0]
    for n in (64, 256, 700, 1024, 1100, 1408, 1700):
        tiles = math.ceil(n / 64)
        pairs = tiles * (tiles + 1) // 2
        if pairs >= 2 * processors:
            continue
        most = 0
        for begin in range(0, len(features), 8):
            launch = features[begin : begin + 8]
            share = [math.floor(2 * processors / pairs * d / sum(launch) + 0.5) for d in launch]
            splits = [
                max(1, min(math.ceil(d / 256), s)) for d, s in zip(launch, share, strict=True)
            ]
            most = max(most, sum(splits))
        planned = _C.plan_panels(n, dims, 4, 1 << 50)["dense_bytes"]
        assert planned >= 4 * n * n * (len(features) + most), (n, planned)

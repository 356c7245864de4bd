# SPDX-License-Identifier: Apache-2.0
"""Every measure on a CUDA device against float64 on the CPU; what `make gpu-check` runs first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import FLOORS, features, readable, relative_error

import bido_ext as bx
from bido_ext.serving import choose
from bido_ext.serving.check import self_check
from bido_ext.serving.implementations import functions_of
from bido_ext.serving.row import ON_GPU, ROWS, checked_ops

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("measure", ["hsic", "nhsic", "coco", "cka"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=readable)
@pytest.mark.parametrize("n", [2, 63, 257])
def test_measures(measure: str, dtype: torch.dtype, n: int) -> None:
    x, y = features(n, 300, dtype), torch.arange(n) % 5
    truth, leaf = x.double().requires_grad_(), x.cuda().requires_grad_()
    expected = getattr(bx, measure)(truth, y)
    expected.backward()
    value = getattr(bx, measure)(leaf, y.cuda())
    value.backward()
    assert value.device.type == "cuda"
    assert relative_error(value.detach().cpu(), expected.detach()) < 1e-4
    assert relative_error(leaf.grad.cpu(), truth.grad) < 5e-5 + 4 * FLOORS[dtype]


@pytest.mark.parametrize("n", [1, 64, 130])
@pytest.mark.parametrize("minus_one", [False, True])
def test_gaussian_gram(n: int, minus_one: bool) -> None:
    x = features(n, 77, torch.float32)
    gamma = torch.tensor(0.02, dtype=torch.float64)
    value = torch.ops.bido_ext.gaussian_gram(x.cuda(), gamma.cuda(), minus_one)
    truth = torch.ops.bido_ext.gaussian_gram(x.double(), gamma, minus_one)
    assert relative_error(value.cpu(), truth) < 4 * FLOORS[torch.float32]


def test_gram_stack() -> None:
    x, z, y = (
        features(130, 77, torch.float32),
        features(130, 9, torch.float32),
        torch.arange(130) % 5,
    )
    parameters, kinds = torch.tensor([0.02, 1.0, 1.0], dtype=torch.float64), [0, 1, 3]
    leaves = [t.cuda().requires_grad_() for t in (x, z)]
    value = torch.ops.bido_ext.gram_stack([*leaves, y.cuda()], parameters.cuda(), kinds)
    wide = [t.double().requires_grad_() for t in (x, z)]
    truth = torch.ops.bido_ext.gram_stack([*wide, y], parameters, kinds)
    assert relative_error(value.detach().cpu(), truth.detach()) < 4 * FLOORS[torch.float32]
    grads = torch.autograd.grad(value.square().sum(), leaves)
    for grad, want in zip(grads, torch.autograd.grad(truth.square().sum(), wide), strict=True):
        assert relative_error(grad.cpu(), want) < 10 * FLOORS[torch.float32]


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIDO_EXT_CACHE_DIR", str(tmp_path))
    choose.forget()


#: Every op with the kernels that any op may have, and with its own further forms.
SERVES_GPUS = [
    (op, name)
    for op in checked_ops()
    for name in dict.fromkeys([*ON_GPU, *[i.name for i in ROWS[op].on_gpu()]])
]


@pytest.mark.parametrize(("op", "implementation"), SERVES_GPUS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=readable)
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_kernels_pass_the_self_check(
    implementation: str, op: str, dtype: torch.dtype, precision: str
) -> None:
    functions = functions_of(op, implementation)
    if not functions:
        pytest.skip(f"{implementation} has no kernel for {op}, or was not built")
    known = ROWS[op].get(implementation)
    if known is not None and known.lacking(torch.device("cuda")):
        pytest.skip(f"{implementation}: {known.lacking(torch.device('cuda'))}")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        self_check(
            op, functions, dtype, torch.device("cuda"), tf32=precision == "high",
            implementation=implementation,
        )  # fmt: skip
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("fresh_cache")
@pytest.mark.parametrize("measure", ["hsic", "nhsic", "coco", "cka"])
def test_the_fastest_right_one_serves(measure: str) -> None:
    table = bx.tune(n=64, dims=(300, 1000), measures=(measure,), device="cuda")
    for row in table.rows:
        times = [t for t in row.milliseconds.values() if isinstance(t, float)]
        assert row.milliseconds[row.chosen] == min(times)


def bido_step(device: str, n: int = 64) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    x, y = features(n, 300, torch.float32).to(device), (torch.arange(n) % 5).to(device)
    layers = [features(n, d, torch.float32).to(device).requires_grad_() for d in (1000, 65, 3)]
    return x, layers, y


@pytest.mark.parametrize("measure", ["hsic", "cka"])
def test_a_step_is_captured_in_a_graph(measure: str) -> None:
    criterion = bx.BiDOLoss(measure=measure, lambda_x=0.5, lambda_y=0.3)
    x, layers, y = bido_step("cuda")

    def step() -> torch.Tensor:
        for z in layers:
            z.grad = None
        loss = criterion(x, layers, y)
        loss.backward()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            expected = step().detach().clone()
    torch.cuda.current_stream().wait_stream(side)
    wanted = [z.grad.clone() for z in layers if z.grad is not None]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(loss.detach(), expected)
    for z, want in zip(layers, wanted, strict=True):
        assert z.grad is not None
        assert torch.equal(z.grad, want)


@pytest.mark.parametrize("measure", ["hsic", "nhsic", "coco", "cka"])
def test_a_step_does_not_wait_for_the_device(measure: str) -> None:
    criterion = bx.BiDOLoss(measure=measure, lambda_x=0.5, lambda_y=0.3)
    x, layers, y = bido_step("cuda")
    criterion(x, layers, y).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        criterion(x, layers, y).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_streaming_equals_dense() -> None:
    x, z = features(3000, 300, torch.float32).cuda(), features(3000, 200, torch.float32).cuda()
    results = []
    for workspace in (None, 30_000_000):
        leaf = z.clone().requires_grad_()
        value = bx.hsic(x, leaf, workspace_bytes=workspace)
        value.backward()
        results.append((value.detach(), leaf.grad))
    assert relative_error(results[1][0], results[0][0]) < 1e-6
    assert relative_error(results[1][1], results[0][1]) < 1e-6


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second CUDA device")
def test_second_device() -> None:
    x, y = features(70, 40, torch.float32), torch.arange(70) % 5
    first = bx.hsic(x.to("cuda:0"), y.to("cuda:0"))
    second = bx.hsic(x.to("cuda:1"), y.to("cuda:1"))
    assert second.device.index == 1
    assert torch.equal(first.cpu(), second.cpu())


@pytest.mark.slow
def test_more_elements_than_32_bits_count() -> None:
    n, d = 40_000, 60_000  # 2.4e9 elements
    if torch.cuda.mem_get_info()[0] < 60 << 30:
        pytest.skip("needs 60 GiB of GPU memory")
    x = torch.randn(n, d, device="cuda", dtype=torch.bfloat16)
    rows = torch.arange(n - 50, n, device="cuda")
    leaf = x.requires_grad_()
    value = bx.hsic(leaf, torch.arange(n, device="cuda") % 7, workspace_bytes=4 << 30)
    value.backward()
    assert leaf.grad is not None
    assert leaf.grad[rows].isfinite().all()
    assert float(leaf.grad[rows].float().abs().sum()) > 0

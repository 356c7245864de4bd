# SPDX-License-Identifier: Apache-2.0
"""The emulator shows what is wrong with a kernel; and the kernels count their launches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cuda_emulator import build

from bido_ext.reference.kernel_entries import GAUSSIAN, LABELS

BLOCK = 256


@pytest.mark.parametrize("order", ["forward", "reverse", "shuffle"])
def test_a_barrier_orders_the_threads(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIDO_EMULATOR_ORDER", order)
    x = torch.arange(float(BLOCK))
    assert torch.equal(build.load().pass_on(x, True), x.roll(-1))


@pytest.mark.parametrize("order", ["forward", "shuffle"])
def test_a_missing_barrier_shows(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIDO_EMULATOR_ORDER", order)
    assert build.load().pass_on(torch.arange(float(BLOCK)), False).isnan().any()


@pytest.mark.parametrize(("left", "message"), [(True, "left"), (False, "deadlock")])
def test_a_barrier_that_not_all_threads_reach_is_an_error(left: bool, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"CUDA emulator: .*{message}"):
        build.load().stuck(torch.zeros(BLOCK), left)
    # and the next kernel runs as if nothing had happened
    assert torch.equal(build.load().pass_on(torch.ones(BLOCK), True), torch.ones(BLOCK))


def test_what_another_block_left_in_static_shared_memory_shows() -> None:
    for _ in range(2):
        first, second = build.load().left_over(torch.zeros(1))
        assert torch.equal(first, torch.ones(BLOCK))
        assert second.isnan().all()


@pytest.mark.parametrize(
    ("capability", "y", "z", "shared", "message"),
    [
        ("8", 65536, 1, 0, "grid"),
        ("8", 1, 65536, 0, "grid"),
        ("8", 1, 0, 0, "grid"),
        ("8", 1, 1, 100 * 1024, "shared memory"),
        ("8", 1, 1, 99 * 1024, "shared memory"),  # with the 1 KB that the kernel itself has
        ("9", 1, 1, 228 * 1024, "shared memory"),
    ],
)
def test_what_no_device_runs_is_an_error(
    capability: str, y: int, z: int, shared: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIDO_EMULATOR_CAPABILITY", capability)
    with pytest.raises(RuntimeError, match=f"CUDA emulator: .*{message}"):
        build.load().too_large(torch.zeros(BLOCK), y, z, shared)
    # On Hopper blocks may have more.
    monkeypatch.setenv("BIDO_EMULATOR_CAPABILITY", "9")
    build.load().too_large(torch.zeros(BLOCK), 1, 1, 99 * 1024)


def test_a_vector_between_its_multiples_is_an_error() -> None:
    x = torch.arange(64.0)
    for offset in (0, 4):
        assert float(build.load().misaligned(x, offset)) == offset
    for offset in (1, 2, 3):
        with pytest.raises(RuntimeError, match="CUDA emulator: a vector of 16 bytes"):
            build.load().misaligned(x, offset)


def vgg16_step(n: int = 64) -> tuple[list[torch.Tensor], torch.Tensor, list[int]]:
    """Five layers after X and before the labels, as in BiDO; narrower, since only launches count."""
    widths = [96, 512, 256, 128, 64, 16]
    group = [torch.rand(n, d) for d in widths]
    parameters = torch.tensor([1 / (50 * d) for d in widths] + [1.0], dtype=torch.float64)
    return [*group, torch.arange(n) % 16], parameters, [GAUSSIAN] * 6 + [LABELS]


FIRST, SECOND = [1, 1, 2, 2, 3, 3, 4, 4, 5, 5], [0, 6] * 5
LAYERS = [1, 2, 3, 4, 5]


def test_a_step_of_few_samples_is_a_handful_of_launches(cuda_kernels: Any) -> None:
    """BiDO at n = 64: at most 12 launches forward and backward (design goal); means, products, Gram matrices,
    sums or factors, values; means, weights, products."""
    group, parameters, kinds = vgg16_step()
    grad = torch.ones(10, dtype=torch.float64)
    count = build.load().launches

    before = count()
    values, sums, kept = cuda_kernels.hsic(group, parameters, kinds, FIRST, SECOND, False, 512, -1)
    assert count() - before == 5
    cuda_kernels.hsic_backward(
        grad, group, parameters, sums, kept, kinds, FIRST, SECOND, False, 512, LAYERS
    )
    assert count() - before == 8

    before = count()
    values, *kept = cuda_kernels.nhsic(group, parameters, kinds, FIRST, SECOND, 1e-5, True, LAYERS)
    assert count() - before == 5
    cuda_kernels.nhsic_backward(grad, group, parameters, *kept, kinds, FIRST, SECOND, 1e-5, LAYERS)
    assert count() - before == 8
    assert values.isfinite().all()

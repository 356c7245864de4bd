# SPDX-License-Identifier: Apache-2.0
"""A step in micro-batches is the step on the whole batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import relative_error
from torch import Tensor, nn

import bido_ext as bx

MEASURES = ["hsic", "nhsic", "coco", "cka"]


def a_model(*extra: nn.Module) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), *extra, nn.Linear(16, 5)
    )  # fmt: skip


def a_batch(n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    x = torch.rand(n, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(0, 5, (n,), generator=generator)


def at_once(
    model: nn.Module, criterion: bx.BiDOLoss, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    with bx.FeatureTaps(model, ["1", "4"]) as taps:
        task = F.cross_entropy(model(x), y)
        bido = criterion(x, taps.features, y)
        (task + bido).backward()
    return task.detach(), bido.detach()


def in_micro_batches(
    model: nn.Module, criterion: bx.BiDOLoss, x: Tensor, y: Tensor, size: int, **options: Any
) -> bx.StepLosses:
    with bx.FeatureTaps(model, ["1", "4"]) as taps:
        return bx.MicroBatchedBiDO(model, taps, criterion, size).backward(x, y, **options)


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])  # type: ignore[union-attr]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("size", [1, 7, 16, 50, 100])  # with a smaller last one, and all at once
def test_equals_the_whole_batch(measure: str, size: int) -> None:
    x, y = a_batch(50, torch.float64)
    whole, parts = a_model().double(), a_model().double()
    criterion = bx.BiDOLoss(measure, 0.3, 2.0)
    task, bido = at_once(whole, criterion, x, y)
    losses = in_micro_batches(parts, criterion, x, y, size)
    assert relative_error(losses.task, task) < 1e-6  # a float32 sum
    assert relative_error(losses.bido, bido) < 1e-9
    assert relative_error(gradients(parts), gradients(whole)) < 1e-7


def test_4096_samples_in_64_micro_batches() -> None:
    x, y = a_batch(4096)
    whole, parts = a_model(), a_model()
    criterion = bx.BiDOLoss("hsic", 1.0, 10.0, sigma=1.0)
    task, bido = at_once(whole, criterion, x, y)
    losses = in_micro_batches(parts, criterion, x, y, 64)
    assert relative_error(losses.task, task) < 1e-5
    assert relative_error(losses.bido, bido) < 1e-5
    assert relative_error(gradients(parts), gradients(whole)) < 1e-5


def test_dropout_draws_the_same_masks_in_both_forwards() -> None:
    x, y = a_batch(24)
    seen: list[Tensor] = []
    model = a_model(nn.Dropout(0.5))
    model[5].register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    torch.manual_seed(1)
    in_micro_batches(model, bx.BiDOLoss("hsic"), x, y, 8)
    after = torch.rand(1)
    assert len(seen) == 6
    assert all(torch.equal(first, second) for first, second in zip(seen[:3], seen[3:], strict=True))
    assert not torch.equal(seen[0] == 0, seen[1] == 0)
    torch.manual_seed(1)
    for rows in x.split(8):  # the generator goes on as after one pass
        model(rows)
    assert torch.equal(after, torch.rand(1))


def test_running_statistics_are_updated_once() -> None:
    x, y = a_batch(24)
    model, rival = a_model(nn.BatchNorm1d(16)), a_model(nn.BatchNorm1d(16))
    in_micro_batches(model, bx.BiDOLoss("hsic"), x, y, 8)
    for rows in x.split(8):
        rival(rows)
    assert int(model[5].num_batches_tracked) == 3
    for buffer, want in zip(model.buffers(), rival.buffers(), strict=True):
        torch.testing.assert_close(buffer, want)


class Counting(nn.Module):
    """Counts its calls in a buffer that it sets anew."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return x


def test_a_buffer_that_is_set_anew_is_updated_once() -> None:
    x, y = a_batch(24)
    model = a_model(Counting())
    in_micro_batches(model, bx.BiDOLoss("hsic"), x, y, 8)
    assert int(model[5].calls) == 3
    assert int(model.state_dict()["5.calls"]) == 3


def test_frozen_batch_norm_equals_the_whole_batch() -> None:
    x, y = a_batch(30, torch.float64)
    models = [a_model(nn.BatchNorm1d(16)).double() for _ in range(2)]
    for model in models:
        model[5].eval()
    criterion = bx.BiDOLoss("nhsic")
    at_once(models[0], criterion, x, y)
    in_micro_batches(models[1], criterion, x, y, 8)
    assert relative_error(gradients(models[1]), gradients(models[0])) < 1e-7


def test_gradients_add_up_and_are_scaled() -> None:
    x, y = a_batch(20)
    model = a_model()
    in_micro_batches(model, bx.BiDOLoss("hsic"), x, y, 8)
    once = gradients(model)
    in_micro_batches(model, bx.BiDOLoss("hsic"), x, y, 8, scale=torch.tensor(3.0))
    torch.testing.assert_close(gradients(model), 4 * once, rtol=1e-5, atol=1e-6)


def test_autocast_does_not_lose_the_gradient_of_weights() -> None:
    x, y = a_batch(20)
    whole, parts = a_model(), a_model()
    criterion = bx.BiDOLoss("hsic", 1.0, 10.0, sigma=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        in_micro_batches(parts, criterion, x, y, 8)
        at_once(whole, criterion, x, y)
    assert float(gradients(parts).abs().min()) >= 0
    assert relative_error(gradients(parts), gradients(whole)) < 2e-2  # bfloat16


def test_weights_of_zero_are_the_task_alone() -> None:
    x, y = a_batch(20)
    model, rival = a_model(), a_model()
    in_micro_batches(model, bx.BiDOLoss("hsic", 0, 0), x, y, 8)
    F.cross_entropy(rival(x), y).backward()
    torch.testing.assert_close(gradients(model), gradients(rival), rtol=1e-5, atol=1e-7)


def test_a_batch_without_samples_is_refused() -> None:
    x, y = a_batch(4)
    with pytest.raises(ValueError, match=r"x has no samples, its shape is \(0, 1, 8, 8\)"):
        in_micro_batches(a_model(), bx.BiDOLoss("hsic"), x[:0], y[:0], 8)


class Sometimes(nn.Module):
    """Runs its layer in every other call."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.layer, self.calls = nn.ReLU(), first

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x) if self.calls % 2 else x


@pytest.mark.filterwarnings("ignore:FeatureTaps")
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("layers", [["5.layer"], ["4", "5.layer"]])
def test_a_layer_that_runs_in_some_micro_batches_is_named(first: int, layers: list[str]) -> None:
    x, y = a_batch(24)
    model = a_model(Sometimes(first))
    with bx.FeatureTaps(model, layers) as taps:
        step = bx.MicroBatchedBiDO(model, taps, bx.BiDOLoss("hsic"), 8)
        with pytest.raises(RuntimeError, match=r"layer\(s\) 5\.layer ran in some"):
            step.backward(x, y)


@pytest.mark.parametrize("size", [0, -1, True, 2.0, None])
def test_bad_size(size: Any) -> None:
    model = a_model()
    taps = bx.FeatureTaps(model, ["1"])
    with pytest.raises(ValueError, match="size must be a positive integer"):
        bx.MicroBatchedBiDO(model, taps, bx.BiDOLoss(), size)


PEAK = """
import sys, torch, torch.nn.functional as F
from torch import nn
import bido_ext as bx
def peak():  # of this program alone: ru_maxrss would start with that of the process that started it
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0])
torch.manual_seed(0)
model = nn.Sequential(*[m for _ in range(8) for m in (nn.Conv2d(4, 4, 3, padding=1), nn.Tanh())],
                      nn.Flatten(), nn.Linear(1024, 32), nn.ReLU(), nn.Linear(32, 5))
taps = bx.FeatureTaps(model, ["18"])
x, y = torch.rand(2048, 4, 16, 16), torch.arange(2048) % 5
criterion = bx.BiDOLoss("hsic")
small = slice(0, 32)
step = bx.MicroBatchedBiDO(model, taps, criterion, 32)
step.backward(x[small], y[small])
before = peak()
if sys.argv[1] == "parts":
    step.backward(x, y)
else:
    (F.cross_entropy(model(x), y) + criterion(x, taps.features, y)).backward()
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_peak_memory_is_that_of_a_micro_batch(tmp_path: Path) -> None:
    peak = {}
    for how in ("whole", "parts"):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, how],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        peak[how] = int(done.stdout)
    print(peak)
    assert peak["parts"] < peak["whole"] / 4, peak


class _Mean(nn.Module):
    """Its mean over a micro-batch has one row."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mean, self.last = nn.Linear(5, 4), nn.Identity(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        return self.last(z + self.mean(z.mean(0, keepdim=True)))


def test_features_without_a_row_for_each_sample_are_named() -> None:
    model = _Mean()
    step = bx.MicroBatchedBiDO(model, bx.FeatureTaps(model, ["mean"]), bx.BiDOLoss("hsic"), 4)
    with pytest.raises(RuntimeError, match=r"layer 'mean' returned shape \(1, 4\) .* 4 samples"):
        step.backward(torch.randn(10, 5), torch.arange(10) % 3)

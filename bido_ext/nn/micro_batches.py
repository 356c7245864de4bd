# SPDX-License-Identifier: Apache-2.0
"""A step of a batch whose activations do not fit, in micro-batches, with the BiDO loss of the whole batch.

Gradient accumulation would sum the dependence of small batches, which is another objective. Here:

1. every micro-batch goes forward without graph, and only its tapped features are kept;
2. one loss over the features of all samples gives the gradient of every feature;
3. every micro-batch goes forward again, with graph, and backward from its task loss and those gradients.

The price is a second forward; kept are the features of the tapped layers and one micro-batch's graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bido_ext.nn.bido_loss import BiDOLoss
from bido_ext.nn.feature_taps import FeatureTaps


class StepLosses(NamedTuple):
    """What a step minimised: 0-d tensors, detached. The objective is their sum."""

    task: Tensor
    bido: Tensor


class MicroBatchedBiDO:
    """Forward and backward of a large batch in micro-batches; the BiDO terms are those of the whole batch.

    Equal to the step on the whole batch for every model that treats samples one by one. The second forward
    repeats the first: the states of the random generators are restored, so that dropout draws the same
    masks, and so are the model's buffers, so that running statistics are updated once. BatchNorm in train
    mode normalises within a micro-batch, as under gradient accumulation; freeze it, or use GroupNorm, where
    that is not wanted.

    Args:
        model: Takes x and returns what ``task_loss`` takes; may be wrapped in DistributedDataParallel
            (gradients are then reduced once, with the last micro-batch).
        taps: On the layers of the model.
        criterion: Any BiDOLoss; with process_group its terms are those of all ranks' batches.
        size: Samples of a micro-batch.

    Raises:
        ValueError: size is not a positive integer.

    Example:
        >>> step = MicroBatchedBiDO(model, taps, criterion, size=64)
        >>> optimizer.zero_grad()
        >>> losses = step.backward(x, y)
        >>> optimizer.step()
    """

    def __init__(self, model: nn.Module, taps: FeatureTaps, criterion: BiDOLoss, size: int) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"size must be a positive integer, got {size!r}.")
        self.model, self.taps, self.criterion, self.size = model, taps, criterion, size

    def backward(
        self,
        x: Tensor,
        y: Tensor,
        task_loss: Callable[[Any, Tensor], Tensor] = F.cross_entropy,
        scale: float | Tensor = 1.0,
    ) -> StepLosses:
        """Adds the gradient of task loss plus BiDO to ``.grad`` of the parameters.

        Args:
            x: Input (n, ...). It gets no gradient.
            y: Labels (n,) or targets (n, e).
            task_loss: Of the model's output and y; a mean over samples.
            scale: Factor on all gradients, for example GradScaler's.

        Raises:
            ValueError: x has no samples. With process_group a rank may have none; its model then runs once
                on the empty batch, so that it takes part in what the ranks exchange.
            RuntimeError: A tapped layer ran in some of the micro-batches only.
        """
        if not len(x) and self.criterion.world_size == 1:
            raise ValueError(
                f"x has no samples, its shape is {tuple(x.shape)}: a step needs 2 or more."
            )
        x = x.detach()
        states: list[Any] = []
        with torch.no_grad(), _kept_buffers(self.model):
            features = self._collect(x, states)
        # A weight that autocast cast without graph would be taken again, without graph.
        torch.clear_autocast_cache()
        bido, grads = self._gradients(x, features, y, scale)
        del features
        task = x.new_zeros((), dtype=torch.float32)
        parts = self._parts(len(x))
        share_of = self._shares(len(x))
        for k, rows in enumerate(parts):
            _restore(states[k], x.device)
            with _synchronised(self.model, k == len(parts) - 1):
                output = self.model(x[rows])
                loss = task_loss(output, y[rows])
                share = share_of(len(x[rows]))
                if share:  # the mean over no samples is NaN
                    task += loss.detach() * share
                seed = torch.as_tensor(share * scale, dtype=loss.dtype, device=loss.device)
                roots, seeds = [loss], [seed]
                kept = self.taps.features
                for name, grad in grads.items():
                    if kept[name].requires_grad:
                        roots.append(kept[name])
                        seeds.append(grad[rows])
                torch.autograd.backward(roots, seeds)
        self.taps.clear()
        return StepLosses(task, bido)

    def _collect(self, x: Tensor, states: list[Any]) -> dict[str, Tensor]:
        """Features of all samples, and the generators' states before each micro-batch."""
        features: dict[str, Tensor] = {}
        for rows in self._parts(len(x)):
            states.append(_states(x.device))
            self.model(x[rows])
            kept = self.taps.features
            if len(states) == 1:
                features = {name: z.new_empty((len(x), *z.shape[1:])) for name, z in kept.items()}
            if uneven := sorted(features.keys() ^ kept.keys()):
                raise RuntimeError(
                    f"MicroBatchedBiDO: layer(s) {', '.join(uneven)} ran in some of the micro-batches only: "
                    "the terms need the features of all samples."
                )
            for name, z in kept.items():
                features[name][rows] = z
            self.taps.clear()
        return features

    def _parts(self, n: int) -> list[slice]:
        """The rows of each micro-batch; a rank without samples has one, which is empty."""
        return [slice(start, start + self.size) for start in range(0, max(n, 1), self.size)]

    def _gradients(
        self, x: Tensor, features: dict[str, Tensor], y: Tensor, scale: float | Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.enable_grad():
            for z in features.values():
                z.requires_grad_()
            bido = self.criterion(x, features, y)
        if not bido.requires_grad:
            return bido.detach(), {}
        seed = torch.as_tensor(scale, dtype=bido.dtype, device=bido.device)
        grads = torch.autograd.grad(bido, list(features.values()), seed)
        return bido.detach(), dict(zip(features, grads, strict=True))

    def _shares(self, n: int) -> Callable[[int], float]:
        """Weight of a micro-batch's mean: its samples over all, for ranks whose gradients are averaged."""
        samples = self.criterion.samples
        if not samples:
            return lambda rows: rows / n
        return lambda rows: rows * self.criterion.world_size / samples


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    """Puts the model's buffers back: what the first forward updates, the second updates again."""
    kept = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in kept:
            setattr(module, name, buffer)  # a forward may have put another tensor there
            buffer.copy_(value)


def _states(device: torch.device) -> tuple[Tensor, Tensor | None]:
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_device


def _restore(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


def _synchronised(model: Any, last: bool) -> Any:
    """Gradients travel between ranks with the last micro-batch only."""
    if hasattr(model, "set_requires_gradient_sync"):  # fully_shard
        model.set_requires_gradient_sync(last)
    elif not last and hasattr(model, "no_sync"):
        return model.no_sync()
    return nullcontext()

# SPDX-License-Identifier: Apache-2.0
"""A step of a batch whose activations do not fit, in micro-batches, with the losses of the whole batch.

Gradient accumulation would sum the dependence of small batches, which is another objective. Here:

1. every micro-batch goes forward without graph, and only its output and its tapped features are kept;
2. one BiDO loss over the features of all samples, and one task loss over all outputs, give their gradients;
3. every micro-batch goes forward again, with graph, and backward from those gradients.

The price is a second forward; kept are outputs, the features of the tapped layers and one micro-batch's graph.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bido_ext.nn.bido_loss import BiDOLoss
from bido_ext.nn.feature_taps import FeatureTaps
from bido_ext.nn.forward_again import (
    Fingerprint,
    check_repeated,
    devices_of,
    fingerprint,
    generator_states,
    kept_buffers,
)
from bido_ext.nn.whole_outputs import WholeOutputs, put_together, task_gradients
from bido_ext.ops._validate import integer_or_none


class StepLosses(NamedTuple):
    """The two losses of a step: 0-d tensors without gradient. Their sum is what the step minimised."""

    task: Tensor
    bido: Tensor


class MicroBatchedBiDO:
    """Runs a batch in micro-batches; both losses and the gradients are those of the whole batch.

    The result equals the step on the whole batch if the model treats samples one by one. Each micro-batch
    runs forward twice. For the second forward, the global random generators of PyTorch, Python and numpy are
    restored, so that dropout draws the same masks, and so are the model's buffers, so that running statistics
    are updated once. If the second forward still differs, an error says so (on a GPU only with the
    criterion's guard=True, because the check waits for the device). BatchNorm in train mode normalises within
    a micro-batch, as in gradient accumulation. If you do not want that, freeze it or use GroupNorm.

    Args:
        model: Takes x and returns what ``task_loss`` takes: tensors (n, ...), alone or in tuples and dicts.
            It may be wrapped in DistributedDataParallel; gradients are then reduced once, with the last
            micro-batch.
        taps: FeatureTaps on the layers of the model.
        criterion: Any BiDOLoss. With process_group its terms are those of all ranks' batches.
        size: Number of samples in a micro-batch.

    Raises:
        ValueError: size is not a positive integer.

    Example:
        >>> step = MicroBatchedBiDO(model, taps, criterion, size=64)
        >>> optimizer.zero_grad()
        >>> losses = step.backward(x, y)
        >>> optimizer.step()
    """

    def __init__(self, model: nn.Module, taps: FeatureTaps, criterion: BiDOLoss, size: int) -> None:
        count = integer_or_none(size)
        if count is None or count < 1:
            raise ValueError(f"size must be a positive integer, got {size!r}.")
        self.model, self.taps, self.criterion, self.size = model, taps, criterion, count

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
            task_loss: ``task_loss(output, y)`` returns one number, such as a mean, a weighted mean or a sum.
                It is called once, with the outputs and labels of all samples (of this rank), and may depend
                on nothing else. If your model keeps a part of the loss in an attribute, such as a KL term,
                return it with the output instead. With process_group a rank's loss is multiplied by its share
                of all samples times the number of ranks, so that means become the mean of all ranks: do not
                weigh it yourself.
            scale: Factor on all gradients, such as that of a GradScaler.

        Returns:
            The two losses, without ``scale``.

        Raises:
            ValueError: x has no samples. (With process_group a rank may have none; its model then runs once
                on the empty batch and takes part in the exchange.)
            TypeError: x is not a tensor, an output has not one row for each sample, or task_loss does not
                return one number.
            RuntimeError: Gradients are disabled, a tapped layer ran in some of the micro-batches only, or a
                second forward differs from the first.
        """
        if not isinstance(x, Tensor):
            raise TypeError(
                f"x must be a tensor (n, ...), got {type(x).__name__}: for a model that takes several, put "
                "them into one tensor and take it apart in a module around the model."
            )
        if not torch.is_grad_enabled():
            raise RuntimeError(
                "MicroBatchedBiDO.backward() is called under torch.no_grad or inference mode: call it outside."
            )
        if not len(x) and self.criterion.world_size == 1:
            raise ValueError(
                f"x has no samples, its shape is {tuple(x.shape)}: a step needs 2 or more."
            )
        x = x.detach()
        restores: list[list[Callable[[], object]]] = []
        with torch.no_grad(), kept_buffers(self.model):
            features, outputs, prints = self._collect(x, restores)
        # A weight that autocast cast without graph would be taken again, without graph.
        torch.clear_autocast_cache()
        bido, grads = self._gradients(x, features, y, scale)
        del features
        task, output_grads = self._task(outputs, y, task_loss, scale)
        parts = self._parts(len(x))
        for k, rows in enumerate(parts):
            for restore in restores[k]:
                restore()
            with _synchronised(self.model, k == len(parts) - 1):
                leaves = pytree.tree_leaves(self.model(x[rows]))
                kept = self.taps.features
                self._check_layers(grads or kept, kept)
                if prints:
                    check_repeated(prints[k], fingerprint(leaves, kept))
                self.criterion._said.without_gradient(
                    [name for name in grads if not kept[name].requires_grad]
                )
                if len(leaves) != len(output_grads):
                    raise RuntimeError(
                        f"MicroBatchedBiDO: the model returned {len(output_grads)} things in the first forward "
                        f"and {len(leaves)} in the second."
                    )
                pairs = [*zip(leaves, output_grads, strict=True)]
                pairs += [(kept[name], grad) for name, grad in grads.items()]
                wanted = [(t, g[rows]) for t, g in pairs if g is not None and t.requires_grad]
                if not wanted:
                    raise RuntimeError(
                        "MicroBatchedBiDO: neither the model's output nor a tapped feature carries a gradient: "
                        "no parameter before them wants one."
                    )
                torch.autograd.backward([t for t, _ in wanted], [g for _, g in wanted])
        self.taps.clear()
        return StepLosses(task, bido)

    def _collect(
        self, x: Tensor, restores: list[list[Callable[[], object]]]
    ) -> tuple[dict[str, Tensor], WholeOutputs, list[Fingerprint]]:
        """Features and outputs of all samples, what brings the generators back before each micro-batch, and
        what tells whether the second forward repeats the first (nothing where nobody may look)."""
        features: dict[str, Tensor] = {}
        outputs: list[Any] = []
        prints: list[Fingerprint] = []
        devices = devices_of(self.model, x)
        looks = self.criterion._guard.looks_at(x)
        for rows in self._parts(len(x)):
            restores.append(generator_states(devices))
            output = self.model(x[rows])
            outputs.append(output)
            kept = self.taps.features
            if len(outputs) == 1:
                features = {name: z.new_empty((len(x), *z.shape[1:])) for name, z in kept.items()}
            self._check_layers(features, kept)
            for name, z in kept.items():
                part = features[name][rows]
                if z.shape != part.shape:  # one row would be copied to all
                    raise RuntimeError(
                        f"MicroBatchedBiDO: layer '{name}' returned shape {tuple(z.shape)} for {len(part)} "
                        f"samples, expected {tuple(part.shape)}: tapped features need a row for each sample, "
                        "of the same shape in all micro-batches."
                    )
                part.copy_(z)
            if looks:
                prints.append(fingerprint(pytree.tree_leaves(output), kept))
            self.taps.clear()
        counts = [len(x[rows]) for rows in self._parts(len(x))]
        return features, put_together(outputs, counts), prints

    @staticmethod
    def _check_layers(expected: dict[str, Tensor], kept: dict[str, Tensor]) -> None:
        if uneven := sorted(expected.keys() ^ kept.keys()):
            raise RuntimeError(
                f"MicroBatchedBiDO: layer(s) {', '.join(uneven)} ran in some of the micro-batches only: "
                "the terms need the features of all samples."
            )

    def _parts(self, n: int) -> list[slice]:
        """The rows of each micro-batch; a rank without samples has one, which is empty."""
        return [slice(start, start + self.size) for start in range(0, max(n, 1), self.size)]

    def _task(
        self,
        outputs: WholeOutputs,
        y: Tensor,
        task_loss: Callable[[Any, Tensor], Tensor],
        scale: float | Tensor,
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The task loss of this rank's samples, and the gradients of the outputs."""
        if not len(y):  # the mean over no samples is NaN; the outputs still go backward, for DDP
            zeros = [
                torch.zeros_like(t) if isinstance(t, Tensor) and t.is_floating_point() else None
                for t in outputs.leaves
            ]
            return y.new_zeros((), dtype=torch.float32), zeros
        samples = self.criterion.samples
        # Ranks' gradients are averaged: a rank weighs as much as it has samples.
        share = len(y) * self.criterion.world_size / samples if samples else 1.0
        with _synchronised(self.model, False):
            return task_gradients(outputs, y, task_loss, share, scale)

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
        sigmas = self.criterion.kernels.sigmas()
        grads = torch.autograd.grad(
            bido, [*features.values(), *sigmas], seed, materialize_grads=True
        )
        for sigma, grad in zip(sigmas, grads[len(features) :], strict=True):
            sigma.grad = grad if sigma.grad is None else sigma.grad + grad
        return bido.detach(), dict(zip(features, grads[: len(features)], strict=True))


def _synchronised(model: Any, last: bool) -> Any:
    """Gradients travel between ranks with the last micro-batch only."""
    if hasattr(model, "set_requires_gradient_sync"):  # fully_shard
        model.set_requires_gradient_sync(last)
    elif not last and hasattr(model, "no_sync"):
        return model.no_sync()
    return nullcontext()

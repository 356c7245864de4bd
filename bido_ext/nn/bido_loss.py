# SPDX-License-Identifier: Apache-2.0
"""The BiDO regulariser: lambda_x sum_j d(X, Z_j) - lambda_y sum_j d(Z_j, Y) (Peng et al. 2022, eq. 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from bido_ext.nn.finite_guard import FiniteGuard
from bido_ext.nn.measure_by_name import measure_by_name
from bido_ext.nn.ranks_of_loss import RanksOfLoss
from bido_ext.nn.step_arguments import check_step, check_weight, named_layers, tensors_of
from bido_ext.ops._plan_arguments import check_workspace
from bido_ext.ops._transforms import through_transforms, transforms_active
from bido_ext.ops._validate import check_choice, check_num_classes, check_positive, is_labels
from bido_ext.ops.bandwidth import Sigma
from bido_ext.ops.coco import NORMS
from bido_ext.ops.group import Pairs, make_group
from bido_ext.ops.kernels import Gaussian, Kernel, Linear
from bido_ext.ops.measure import check_kernel
from bido_ext.ops.plan import MEASURES
from bido_ext.ops.ring_memory import EXCHANGES

if TYPE_CHECKING:  # a PyTorch without torch.distributed has no ProcessGroup
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


class DependenceTerms(NamedTuple):
    """d(X, Z_j) and d(Z_j, Y) of one layer: 0-d tensors, detached, on the features' device."""

    x: Tensor
    y: Tensor


class BiDOLoss(nn.Module):
    """Bilateral dependency: add it to the classification loss.

    Args:
        measure: "nhsic" (BiDO-HSIC as published), "coco" (BiDO-COCO), "hsic" or "cka".
        lambda_x: Weight of sum_j d(X, Z_j): how much the features forget of the input.
        lambda_y: Weight of sum_j d(Z_j, Y): how much they keep of the labels. Published pairs:
            nhsic (0.05, 0.5), coco (1, 50); lambda_y depends on the batch sampler (docs/bido.md).
        sigma: Bandwidth of the Gaussian kernels of X and of every Z_j, scaled by sqrt(d).
        kernel_y: Kernel of the labels; default Linear on one-hot.
        num_classes: Number of classes; the label range is then checked (on the CPU), and a Gaussian
            kernel_y needs it.
        eps: Ridge of nhsic.
        coco_norm: "spectral" (the definition) or "fro" (the published code) for measure "coco".
        linalg_dtype: dtype of the n x n algebra of nhsic and coco; default float64 up to n = 1024.
        workspace_bytes: For hsic and cka: bound on the memory beyond inputs and gradients of a step; where
            the Gram matrices do not fit, their tiles are streamed. Default: see :func:`bido_ext.plan`.
            With process_group: bound on a rank's rows of the Gram matrices, the same on all ranks.
        process_group: "world", a torch.distributed ProcessGroup, or a DeviceMesh of one dimension over which
            the samples are spread. "world" is looked up at the first step, so that the loss can be made
            before init_process_group (dist.group.WORLD is None until then). The terms are those of the
            union of all ranks' samples, the same on every rank; ranks may have different numbers of
            samples, or none. The
            gradient of a rank's rows is multiplied by the number of ranks, so that the *average* over
            ranks, which DistributedDataParallel and fully_shard take, is the gradient of the global
            batch. If you sum gradients over ranks instead, divide this loss by the number of ranks.
            Every rank has to call the loss equally often.
        local: With process_group, keep the terms of each rank's own samples: nothing is exchanged.
        exchange: With process_group, how features reach the other ranks: "gather" brings all of them to
            every rank, n s D bytes; "ring" passes blocks of them round, of which two are held beside the
            rank's own. The ring moves the layers' features twice, and takes the gradient within the
            forward; sigma="median" and a kernel_y of your own need "gather". "auto" takes the ring
            where gathered features would take more than workspace_bytes, or half of what is free at
            the first step on the rank with least of it. The backward exchanges nothing with either.
        guard: Whether a value that is not finite raises, naming step, layer and term: None on the CPU,
            True everywhere (one host sync a step on a GPU), False never.

    Attributes:
        terms: dict layer name -> DependenceTerms of the last call.
        samples: With process_group, the samples of all ranks in the last call. Where ranks have different
            numbers, the classification loss of a rank belongs multiplied by its samples times the number
            of ranks over this.

    Example:
        >>> taps = FeatureTaps(model, ["layer1", "layer2"])
        >>> criterion = BiDOLoss(measure="nhsic", lambda_x=0.05, lambda_y=0.5, sigma=5.0)
        >>> loss = F.cross_entropy(model(x), y) + criterion(x, taps.features, y)
    """

    terms: dict[str, DependenceTerms]

    def __init__(
        self,
        measure: str = "nhsic",
        lambda_x: float = 0.05,
        lambda_y: float = 0.5,
        sigma: Sigma = 5.0,
        *,
        kernel_y: Kernel | None = None,
        num_classes: int | None = None,
        eps: float = 1e-5,
        coco_norm: str = "spectral",
        linalg_dtype: torch.dtype | None = None,
        workspace_bytes: int | None = None,
        process_group: ProcessGroup | DeviceMesh | str | None = None,
        local: bool = False,
        exchange: str = "auto",
        guard: bool | None = None,
    ) -> None:
        super().__init__()
        self.measure = check_choice(measure, "measure", MEASURES)
        self.lambda_x = check_weight(lambda_x, "lambda_x")
        self.lambda_y = check_weight(lambda_y, "lambda_y")
        check_kernel(kernel_y, "kernel_y")
        self.kernel = Gaussian(sigma)
        self.kernel_y = kernel_y
        self.num_classes = check_num_classes(num_classes)
        self._measure = measure_by_name(
            measure,
            check_positive(eps, "eps"),
            check_choice(coco_norm, "coco_norm", NORMS),
            linalg_dtype,
        )
        check_workspace(workspace_bytes)
        if workspace_bytes is not None and not self._measure.streams:
            raise ValueError(
                f"workspace_bytes needs a measure that can stream, hsic or cka; got measure={measure!r}."
            )
        self.workspace_bytes = workspace_bytes
        self._ranks = RanksOfLoss(process_group, local)
        self.exchange = check_choice(exchange, "exchange", EXCHANGES)
        self._allowed_bytes: int | None = None
        self._guard = FiniteGuard(guard)
        self.terms = {}
        self.samples = 0

    @property
    def world_size(self) -> int:
        """Ranks whose samples the terms are of; 1 without process_group, or before "world" exists."""
        return self._ranks.world_size

    def extra_repr(self) -> str:
        """The settings, for printing."""
        return (
            f"measure={self.measure}, lambda_x={self.lambda_x}, lambda_y={self.lambda_y}, "
            f"sigma={self.kernel.sigma}"
        )

    def _settings(self) -> str:
        """All that the value depends on beside the batch, the same text on ranks with other devices."""
        sigma = self.kernel.sigma
        sigma = float(sigma) if isinstance(sigma, Tensor) else sigma
        return (
            f"measure={self.measure} {vars(self._measure)}, lambda_x={self.lambda_x}, "
            f"lambda_y={self.lambda_y}, sigma={sigma}, kernel_y={type(self.kernel_y).__name__}, "
            f"num_classes={self.num_classes}"
        )

    def forward(
        self, x: Tensor, features: Mapping[str, Tensor] | Sequence[Tensor], y: Tensor
    ) -> Tensor:
        """The weighted sum over the layers.

        Args:
            x: Network input (n, ...), as the network sees it, n >= 2 (over all ranks).
            features: Hidden outputs (n, ...) by layer name, or in a sequence; flattened to (n, -1).
            y: Integer labels (n,), or float targets (n, e).

        Returns:
            A 0-d float32 (float64 if the input or a layer is float64) tensor. With both weights 0 it carries no
            gradient, so that training equals training without it, bit by bit.

        Raises:
            TypeError, ValueError: An argument does not fit; the layer is named. With process_group all
                ranks raise if one does.
            RuntimeError: With process_group: called under a torch.func transform or in forward mode.
        """
        self._ranks.find()
        if transforms_active(x, y, *tensors_of(features)):
            return self._transformed(x, named_layers(features), y)
        return self._step(x, features, y)

    def _transformed(self, x: Tensor, features: Mapping[str, Tensor], y: Tensor) -> Tensor:
        """The step under torch.func transforms or in forward mode."""
        if self._ranks.handle is not None:
            raise RuntimeError(
                "BiDOLoss with process_group exchanges features, which torch.func transforms and forward mode "
                "cannot follow: differentiate with .backward(), or give local=True."
            )
        names = list(features)

        def step(x: Tensor, y: Tensor, *layers: Tensor) -> Tensor:
            return self._step(x, dict(zip(names, layers, strict=True)), y)

        def step_again(*tensors: Tensor) -> Tensor:
            counted = self._guard.steps
            total = step(*tensors)
            self._guard.steps = counted
            return total

        return through_transforms(step, x, y, *features.values(), again=step_again)

    def _step(
        self, x: Tensor, features: Mapping[str, Tensor] | Sequence[Tensor], y: Tensor
    ) -> Tensor:
        shards = None
        if self._ranks.handle is None:
            layers = check_step(x, features, y, self.num_classes, minimum_rows=2)
        else:
            # Loaded where ranks exist: torch.distributed and torch.compiler.disable take a second to import.
            from bido_ext.nn.global_step import agree_on_step, global_step

            layers, shards = agree_on_step(self, x, features, y)
        count = len(layers)
        inputs = [x.flatten(1), *layers.values(), y]
        if not self.lambda_x and not self.lambda_y:
            inputs = [v.detach() for v in inputs]
        label_kernel = self.kernel_y if is_labels(y) else self.kernel_y or self.kernel
        kernels = [self.kernel] * (1 + count) + [label_kernel or Linear()]
        first = list(range(1, count + 1))
        pairs = Pairs(first + first, [0] * count + [count + 1] * count)
        if shards is None or self._ranks.handle is None:
            values = self._local(inputs, kernels, pairs)
            total = self._weigh(values)
        else:
            total, values, inputs = global_step(
                self._measure, inputs, kernels, self.num_classes, pairs, self._weigh, shards,
                self._ranks.handle, self.exchange, self.workspace_bytes,
            )  # fmt: skip
        terms = values.detach().unbind()
        self.terms = {
            name: DependenceTerms(terms[i], terms[count + i]) for i, name in enumerate(layers)
        }
        names = ["x", *(f"features of layer '{name}'" for name in layers), "y"]
        # A term without weight counts as well: 0 times its infinite gradient is NaN.
        weighted = bool(self.lambda_x or self.lambda_y)
        watched = torch.cat([values.detach(), total.detach()[None]]) if weighted else total
        self._guard.check(watched, self.terms, dict(zip(names, inputs, strict=True)))
        wide = any(t.dtype == torch.float64 for t in (x, *layers.values()))
        return total if wide else total.to(torch.float32)

    def _weigh(self, values: Tensor) -> Tensor:
        """The objective of the values: d(X, Z_j) of every layer, then d(Z_j, Y)."""
        d_x, d_y = values.chunk(2)
        total = values.new_zeros(())
        # A term without weight is still reported, but does not touch the value or a finite gradient.
        if self.lambda_x:
            total = total + self.lambda_x * d_x.sum()
        if self.lambda_y:
            total = total - self.lambda_y * d_y.sum()
        return total

    def _local(self, inputs: list[Tensor], kernels: list[Kernel], pairs: Pairs) -> Tensor:
        exact = self._measure.eps is not None
        group = make_group(inputs, kernels, self.num_classes, exact)
        return self._measure.values(group, pairs, self.workspace_bytes)

# SPDX-License-Identifier: Apache-2.0
"""The BiDO regulariser: lambda_x sum_j d(X, Z_j) - lambda_y sum_j d(Z_j, Y) (Peng et al. 2022, eq. 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bido_ext.nn.finite_guard import FiniteGuard
from bido_ext.nn.loss_kernels import DEFAULT_SIGMA, SigmaOfLoss, loss_kernels
from bido_ext.nn.measure_by_name import measure_by_name
from bido_ext.nn.objective import (
    DependenceTerms,
    named_numbers,
    values_of_one_sample,
    weighted_sum,
)
from bido_ext.nn.ranks_of_loss import RanksOfLoss
from bido_ext.nn.said_once import SaidOnce
from bido_ext.nn.step_arguments import check_step, check_weight, named_layers, tensors_of
from bido_ext.nn.warmup import Warmup
from bido_ext.ops._plan_arguments import check_workspace
from bido_ext.ops._transforms import through_transforms, transforms_active
from bido_ext.ops._validate import check_choice, check_num_classes, check_positive
from bido_ext.ops.coco import NORMS
from bido_ext.ops.group import Pairs, make_group
from bido_ext.ops.kernels import Kernel
from bido_ext.ops.learnable_sigma import refuse_transforms
from bido_ext.ops.plan import MEASURES
from bido_ext.ops.ring_memory import EXCHANGES

if TYPE_CHECKING:  # a PyTorch without torch.distributed has no ProcessGroup
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


class BiDOLoss(nn.Module):
    """The BiDO term of Peng et al. (2022), equation 3: add it to the classification loss.

    It is lambda_x sum_j d(X, Z_j) - lambda_y sum_j d(Z_j, Y) over the tapped layers Z_j. The first sum pushes
    the layers to forget the input X, the second one to keep the labels Y. The value may be negative.

    Args:
        measure: The measure d: "nhsic" (BiDO-HSIC as published), "coco" (BiDO-COCO), "hsic" or "cka".
        lambda_x: Weight of sum_j d(X, Z_j), 0 or more.
        lambda_y: Weight of sum_j d(Z_j, Y), 0 or more. Published pairs (lambda_x, lambda_y): (0.05, 0.5) for
            nhsic, (1, 50) for coco. The right lambda_y depends on how batches are drawn;
            :func:`bido_ext.suggest_weights` proposes pairs for your model.
        sigma: Bandwidth of the Gaussian kernels of X and of every Z_j; it is scaled by sqrt(d). A number, a
            0-d tensor or "median". Or a dict with one for each layer name; X then keeps 5.0. An nn.Parameter
            is learnt, if the optimizer gets the :meth:`parameters` of this loss.
        kernel_x: Kernel of X. Default: Gaussian(sigma).
        kernel_z: Kernel of every Z_j. Default: Gaussian(sigma).
        kernel_y: Kernel of Y. Default: Linear(), for integer labels and float targets alike, so that one-hot
            targets give the same as integer labels. For regression choose one, such as Gaussian(1.0).
        num_classes: Number of classes. The labels are checked against it (on the CPU); a Gaussian kernel_y
            needs it.
        eps: Ridge of nhsic, relative to n.
        coco_norm: For coco: "spectral" (the definition) or "fro" (the published code).
        linalg_dtype: dtype of the n x n algebra of nhsic and coco. Default: float64 up to n = 1024 (nhsic on
            a CPU: for every n, if the memory suffices), else that of the Gram matrices.
        estimator: For hsic and cka: "biased", or "unbiased" for batches of at least 4 samples. Unbiased cka
            is undefined if a layer has nothing to compare, such as a dead layer; the step then raises.
        workspace_bytes: For hsic and cka: largest memory of a step in bytes, beyond inputs and gradients. If
            the Gram matrices do not fit, they are computed tile by tile. Default: see
            :func:`bido_ext.plan`. With process_group it limits a rank's rows of the Gram matrices, and must
            be the same on all ranks.
        process_group: Computes the terms over the samples of all ranks of this group: "world", a
            torch.distributed ProcessGroup, or a DeviceMesh of one dimension. Every rank gets the same value.
            Ranks may have different numbers of samples, or none, but must call the loss equally often.
            "world" is looked up at the first step, so the loss may be made before init_process_group. The
            gradient of a rank's rows is multiplied by the number of ranks. So the *average* of the gradients
            over ranks, which DistributedDataParallel and fully_shard take, is that of the global batch. If
            you sum gradients instead, divide this loss by the number of ranks.
        local: With process_group: compute the terms over each rank's own samples, and exchange nothing.
        exchange: With process_group: how features reach the other ranks. "gather" brings all of them to
            every rank. "ring" passes blocks of them round; a rank holds only two blocks beside its own, but
            the layers' features move twice. sigma="median" and a kernel_y of your own need "gather".
            "auto" takes the ring if the gathered features would exceed workspace_bytes, or by
            default half of the free memory on the rank that has least of it at the first step.
        guard: Whether a value that is not finite raises an error with step, layer and term. None: on the CPU
            only. True: everywhere; on a GPU every step then waits for the device. False: never.
        warmup_steps: The weights grow linearly from lambda / warmup_steps in the first training step to
            lambda. A step is a call in train mode with gradients enabled; the state_dict keeps the count.
            0: no warm-up.

    A batch of one sample (over all ranks) has terms of 0 and no gradient; a warning says so once. Another
    warning says once that features carry no gradient. Compiled steps do not warn.

    Attributes:
        terms: dict from layer name to the DependenceTerms of the last call, without weights. See also
            :meth:`log`.
        samples: With process_group: the samples of all ranks in the last call. If ranks have different
            numbers, multiply a rank's classification loss by its samples times the number of ranks,
            divided by this.

    Raises:
        TypeError, ValueError: An argument does not fit.

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
        sigma: SigmaOfLoss = DEFAULT_SIGMA,
        *,
        kernel_x: Kernel | None = None,
        kernel_z: Kernel | None = None,
        kernel_y: Kernel | None = None,
        num_classes: int | None = None,
        eps: float = 1e-5,
        coco_norm: str = "spectral",
        linalg_dtype: torch.dtype | None = None,
        estimator: str = "biased",
        workspace_bytes: int | None = None,
        process_group: ProcessGroup | DeviceMesh | str | None = None,
        local: bool = False,
        exchange: str = "auto",
        guard: bool | None = None,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__()
        self.measure = check_choice(measure, "measure", MEASURES)
        self.lambda_x = check_weight(lambda_x, "lambda_x")
        self.lambda_y = check_weight(lambda_y, "lambda_y")
        self.kernels = loss_kernels(sigma, kernel_x, kernel_z, kernel_y)
        if learnt := [s for s in self.kernels.sigmas() if isinstance(s, nn.Parameter)]:
            self.bandwidths = nn.ParameterList(learnt)
        self.num_classes = check_num_classes(num_classes)
        self._measure = measure_by_name(
            measure,
            check_positive(eps, "eps"),
            check_choice(coco_norm, "coco_norm", NORMS),
            linalg_dtype,
            estimator,
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
        self._said = SaidOnce()
        self.warmup = Warmup(warmup_steps)
        self._total: Tensor | None = None
        self.terms = {}
        self.samples = 0

    @property
    def world_size(self) -> int:
        """Number of ranks in process_group; 1 without it, or before "world" exists."""
        return self._ranks.world_size

    def log(self) -> dict[str, float]:
        """The last step as a dict of floats, for a logger; {} before the first step.

        This call waits for the device; a step does not.

        Returns:
            A dict in which "bido" is the value of the loss, and "bido_x/<layer>" and "bido_y/<layer>" are the
            terms d(X, Z_j) and d(Z_j, Y) of a layer, without weights.
        """
        return {} if self._total is None else named_numbers(self._total, self.terms)

    def extra_repr(self) -> str:
        """The settings, for printing."""
        return (
            f"measure={self.measure}, lambda_x={self.lambda_x}, lambda_y={self.lambda_y}, "
            f"{self.kernels.describe()}"
        )

    def _settings(self) -> str:
        """All that the value depends on beside the batch, the same text on ranks with other devices."""
        return (
            f"measure={self.measure} {vars(self._measure)}, lambda_x={self.lambda_x}, "
            f"lambda_y={self.lambda_y}, {self.kernels.describe()}, num_classes={self.num_classes}, "
            f"warmup_steps={self.warmup.steps}"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Where it is loaded, there may be more memory or less."""
        return {**self.__dict__, "_allowed_bytes": None}

    def forward(
        self, x: Tensor, features: Mapping[str, Tensor] | Sequence[Tensor], y: Tensor
    ) -> Tensor:
        """Computes the weighted sum over the layers.

        Args:
            x: Network input (n, ...), as the network sees it, with n >= 2 samples over all ranks. Float64,
                float32, bfloat16 or float16; flattened to (n, -1).
            features: Outputs (n, ...) of the layers, of the same dtypes: a dict from layer name, such as
                ``taps.features``, or a sequence. Flattened to (n, -1).
            y: Integer labels (n,), or float targets (n, e): one-hot, soft labels, or regression targets.

        Returns:
            A 0-d tensor: float64 if the input or a layer is float64, else float32. If both weights are 0 it
            carries no gradient, so that training is bit by bit the same as without it.

        Raises:
            TypeError, ValueError: An argument does not fit, or a value is not finite (see ``guard``). The
                message names the layer. With process_group all ranks raise if one does.
            RuntimeError: With process_group: called under a torch.func transform or in forward mode.
        """
        self._ranks.find()
        counts = self.training and torch.is_grad_enabled()
        if transforms_active(x, y, *tensors_of(features)):
            return self._transformed(x, named_layers(features), y, counts)
        total = self._step(x, features, y, [])
        if counts and (self.lambda_x or self.lambda_y):
            self._said.about_features(x, named_layers(features), y, bool(self.kernels.sigmas()))
        if counts:
            self.warmup.advance()
        return total

    def _transformed(
        self, x: Tensor, features: Mapping[str, Tensor], y: Tensor, counts: bool
    ) -> Tensor:
        """The step under torch.func transforms or in forward mode."""
        refuse_transforms(*self.kernels.sigmas())
        if self._ranks.handle is not None:
            raise RuntimeError(
                "BiDOLoss with process_group exchanges features, which torch.func transforms and forward mode "
                "cannot follow: differentiate with .backward(), or give local=True."
            )
        names = list(features)
        warmup: list[Tensor | None] = []

        def again(x: Tensor, y: Tensor, *layers: Tensor) -> Tensor:
            counted = self._guard.steps
            total = self._step(x, dict(zip(names, layers, strict=True)), y, warmup)
            self._guard.steps = counted
            return total

        def step(x: Tensor, y: Tensor, *layers: Tensor) -> Tensor:
            first = not warmup
            total = self._step(x, dict(zip(names, layers, strict=True)), y, warmup)
            if first and counts:  # here, where tensors are plain, and once for a whole vmap
                self.warmup.advance()
            return total

        return through_transforms(step, x, y, *features.values(), again=again)

    def _step(
        self,
        x: Tensor,
        features: Mapping[str, Tensor] | Sequence[Tensor],
        y: Tensor,
        warmup: list[Tensor | None],
    ) -> Tensor:
        """Value of a batch; ``warmup`` holds its factor, or gets it."""
        shards = None
        if self._ranks.handle is None:
            least = self._measure.minimum_rows
            layers = check_step(x, features, y, self.num_classes, minimum_rows=least)
        else:
            # Loaded where ranks exist: torch.distributed and torch.compiler.disable take a second to import.
            from bido_ext.nn.global_step import agree_on_step, global_step

            layers, shards = agree_on_step(self, x, features, y)
        count = len(layers)
        inputs = [x.flatten(1), *layers.values(), y]
        if not self.lambda_x and not self.lambda_y:
            inputs = [v.detach() for v in inputs]
        kernels = self.kernels.of(layers)
        if not warmup:
            warmup.append(self.warmup.factor(x.device))
        weigh = partial(
            weighted_sum, lambda_x=self.lambda_x, lambda_y=self.lambda_y, warmup=warmup[0]
        )
        names = ["x", *(f"features of layer '{name}'" for name in layers), "y"]
        reason = partial(self._measure.why_not_finite_over_ranks, names)
        first = list(range(1, count + 1))
        pairs = Pairs(first + first, [0] * count + [count + 1] * count)
        if (shards.n if shards else x.shape[0]) == 1:
            self._said.lone_sample()
            values = values_of_one_sample(inputs)
            total = weigh(values)
        elif shards is None or self._ranks.handle is None:
            measure = self._measure
            group = make_group(inputs, kernels, self.num_classes, measure.exact, measure.unbiased)
            values = self._measure.values(group, pairs, self.workspace_bytes)
            total = weigh(values)
            reason = partial(self._measure.why_not_finite, group, names)
        else:
            total, values, inputs = global_step(
                self._measure, inputs, kernels, self.num_classes, pairs, weigh, shards,
                self._ranks.handle, self.exchange, self.workspace_bytes,
            )  # fmt: skip
        terms = values.detach().unbind()
        self.terms = {
            name: DependenceTerms(terms[i], terms[count + i]) for i, name in enumerate(layers)
        }
        self._total = total.detach()
        # A term without weight counts as well: 0 times its infinite gradient is NaN.
        weighted = bool(self.lambda_x or self.lambda_y)
        watched = torch.cat([values.detach(), total.detach()[None]]) if weighted else total
        self._guard.check(watched, self.terms, dict(zip(names, inputs, strict=True)), reason)
        wide = any(t.dtype == torch.float64 for t in (x, *layers.values()))
        return total if wide else total.to(torch.float32)

# SPDX-License-Identifier: Apache-2.0
"""Similarity of all layers of a model with all layers of another, over mini-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bido_ext.nn.feature_taps import Selector
from bido_ext.nn.similarity_matrix import SimilarityMatrix
from bido_ext.nn.similarity_ranks import RankState, state_of_ranks
from bido_ext.nn.similarity_sums import CenteredGrams, SimilaritySums, sums_of_batch
from bido_ext.nn.watched_model import Call, WatchedModel
from bido_ext.ops._validate import check_choice, check_same_samples
from bido_ext.ops.group import make_group
from bido_ext.ops.hsic import ESTIMATORS
from bido_ext.ops.kernels import Kernel, Linear
from bido_ext.ops.measure import check_kernel

if TYPE_CHECKING:  # a PyTorch without torch.distributed has no ProcessGroup
    from torch.distributed import ProcessGroup

MEASURES = ("cka", "hsic")


class LayerSimilarity:
    """Compares all layers of one or two models by CKA. Use it like a metric: update, compute, reset.

    In every mini-batch, HSIC of each pair of layers is computed. It is averaged over the batches, and then
    divided to give CKA (Nguyen, Raghu and Kornblith 2021, equations 2 and 3). With the unbiased estimator
    (Song et al. 2012) the result does not depend on the batch size, except by chance. Every batch has the
    same weight.

    Args:
        model: Any module. It runs in evaluation mode without gradients; afterwards it is in its former mode
            and has no hooks. For a compiled model, or one wrapped in DistributedDataParallel, the module
            inside is used.
        other: A second model. Default: compare the layers of ``model`` with each other.
        layers: Layers of ``model``, the rows: names as in ``model.named_modules()``, modules, a function
            ``f(name, module) -> bool``, or a dict from layers to the part of their output to compare, all as
            for :class:`bido_ext.FeatureTaps`. Default: the model's children,
            in the order in which they run. Containers, and a child with more than half of the parameters,
            are replaced by their children. One extra forward pass at the first update finds them.
        other_layers: Layers of ``other``, the columns. Default: as ``layers``, unless those are modules.
        measure: "cka", or "hsic" for the averages that are not normalized.
        estimator: "unbiased" for batches of at least 4 samples, or "biased" for at least 2. Biased values
            grow as batches get smaller.
        kernel: Kernel of every layer. Default: Linear(), as in the literature. Features are flattened to
            (n, -1).
        call: ``call(model, batch)`` runs a model on a batch. Default: a tensor is the input, a mapping holds
            the keyword arguments, and of a tuple or list the first entry is the input (the others, such as
            labels, are ignored).
        process_group: Ranks whose sums :meth:`compute` adds up. Default: all, if torch.distributed is
            initialised.

    Attributes:
        layers, other_layers: Names of rows and columns. If you gave none, they are empty before the first
            update.

    Raises:
        TypeError, ValueError: An argument does not fit; a layer is not in the model (see FeatureTaps).

    Example:
        >>> similarity = bx.LayerSimilarity(model, other)
        >>> for batch in loader:
        ...     similarity.update(batch)
        >>> similarity.compute().plot().savefig("similarity.png")
    """

    def __init__(
        self,
        model: nn.Module,
        other: nn.Module | None = None,
        layers: Selector | None = None,
        other_layers: Selector | None = None,
        measure: str = "cka",
        estimator: str = "unbiased",
        *,
        kernel: Kernel | None = None,
        call: Call | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        for name, value in (("model", model), ("other", other)):
            if not isinstance(value, nn.Module) and not (name == "other" and value is None):
                raise TypeError(f"{name} must be a torch.nn.Module, got {type(value).__name__}.")
        if call is not None and not callable(call):
            raise TypeError(f"call must be a function, got {type(call).__name__}.")
        check_kernel(kernel, "kernel")
        self.measure = check_choice(measure, "measure", MEASURES)
        self.estimator = check_choice(estimator, "estimator", ESTIMATORS)
        self.kernel = kernel or Linear()
        self.process_group = process_group
        self._model = WatchedModel(model, call)
        self._other = self._model if other is None else WatchedModel(other, call)
        if layers is not None and isinstance(layers, Iterator):
            layers = list(layers)  # it may be read twice
        columns = layers if other_layers is None else other_layers
        self._rows = [] if layers is None else self._model.names_of(layers)
        self._columns = [] if columns is None else self._other.names_of(columns)
        self.reset()

    def reset(self) -> None:
        """Forgets all batches. The choice of layers stays."""
        self._sums: SimilaritySums | None = None
        self._batches = self._samples = 0

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the rows."""
        return tuple(self._rows)

    @property
    def other_layers(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self._columns)

    @torch.no_grad()
    def update(self, batch: Any, other_batch: Any = None) -> None:
        """Runs the models on a mini-batch and adds its HSIC to the sums. Ranks exchange nothing.

        Args:
            batch: What your DataLoader gives, on the models' device; see ``call``.
            other_batch: The same samples in the form that ``other`` needs, such as another image size.
                Default: ``batch``.

        Raises:
            TypeError: The output of a layer is not a floating-point tensor, or the default ``call`` does not
                know this type of batch.
            ValueError: A layer did not run, its output has another number of rows than the others, there
                are too few samples (give the DataLoader drop_last=True), or features hold NaN or Inf
                (checked on the CPU here, on other devices by compute). The sums stay as they were.
        """
        one = self._other is self._model
        if other_batch is not None and one:
            raise ValueError("other_batch needs a second model: other is None.")
        other_batch = batch if other_batch is None else other_batch
        rows = self._rows or self._model.default_layers(batch)
        columns = self._columns or (rows if one else self._other.default_layers(other_batch))
        names = list(dict.fromkeys([*rows, *columns])) if one else rows
        first = self._grams(self._model, names, batch)
        if one:
            sums = sums_of_batch(first, None).only(
                [names.index(name) for name in rows], [names.index(name) for name in columns]
            )
        else:
            second = self._grams(self._other, columns, other_batch)
            check_same_samples(
                first.stack[0], second.stack[0], "the outputs of model", "those of other"
            )
            sums = sums_of_batch(first, second)
        if sums.products.device.type == "cpu":
            check_finite(sums, rows, columns)
        self._rows, self._columns = rows, columns
        self._sums = sums if self._sums is None else self._sums.plus(sums)
        self._batches += 1
        self._samples += first.n

    def compute(self, sync: bool = True) -> SimilarityMatrix:
        """Returns the similarity of all pairs of layers over all batches so far. More may follow.

        Args:
            sync: If torch.distributed is initialised, first add up the sums of all ranks of process_group.
                Every rank must then call compute, also one without batches, and all get the same matrix.
                The sums of each rank stay as they are.

        Returns:
            A :class:`SimilarityMatrix` in float64.

        Raises:
            RuntimeError: No rank has had a batch.
            ValueError: Features held NaN or Inf, or ranks compare different layers. All ranks raise.
        """
        sums = None if self._sums is None else self._sums.cpu()
        state = RankState(
            sums, self.layers, self.other_layers, self._settings(), self._batches, self._samples
        )
        if sync:
            state = state_of_ranks(state, self.process_group)
        if state.sums is None:
            raise RuntimeError("LayerSimilarity.compute() needs at least one update(batch) before.")
        check_finite(state.sums, state.layers, state.other_layers)
        return SimilarityMatrix(
            state.sums.cka() if self.measure == "cka" else state.sums.products / state.batches,
            state.layers,
            state.other_layers,
            self.measure,
            self.estimator,
            state.batches,
            state.samples,
        )

    def _grams(self, model: WatchedModel, names: Sequence[str], batch: Any) -> CenteredGrams:
        unbiased = self.estimator == "unbiased"
        features = list(model.features(names, batch, 4 if unbiased else 2).values())
        kernels = [self.kernel] * len(features)
        return CenteredGrams(make_group(features, kernels, unbiased=unbiased), unbiased)

    def _settings(self) -> str:
        return f"measure={self.measure}, estimator={self.estimator}, kernel={type(self.kernel).__name__}"


def check_finite(sums: SimilaritySums, layers: Sequence[str], other_layers: Sequence[str]) -> None:
    """Raises ValueError naming the layers whose HSIC with itself is not finite."""
    bad = [
        name
        for names, own in ((layers, sums.own), (other_layers, sums.other_own))
        for name, good in zip(names, torch.isfinite(own).tolist(), strict=True)
        if not good
    ]
    if bad:
        raise ValueError(
            f"the output of layer(s) {', '.join(dict.fromkeys(bad))} contains NaN or Inf, or is so large "
            "that its Gram matrix overflows, or its samples lie so far apart for this kernel that only "
            "round-off is left: the similarity is undefined."
        )

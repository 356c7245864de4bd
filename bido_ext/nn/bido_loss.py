# SPDX-License-Identifier: Apache-2.0
"""The BiDO regulariser: lambda_x sum_j d(X, Z_j) - lambda_y sum_j d(Z_j, Y) (Peng et al. 2022, eq. 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bido_ext.ops._validate import (
    FLOATS,
    check_choice,
    check_features,
    check_labels,
    check_positive,
    check_same_samples,
    is_labels,
)
from bido_ext.ops.bandwidth import Sigma
from bido_ext.ops.cka import CkaMeasure
from bido_ext.ops.coco import NORMS, CocoMeasure
from bido_ext.ops.group import Pairs, make_group
from bido_ext.ops.hsic import HsicMeasure
from bido_ext.ops.kernels import Gaussian, Kernel
from bido_ext.ops.measure import Measure, check_kernel
from bido_ext.ops.nhsic import NhsicMeasure
from bido_ext.ops.plan import check_workspace

MEASURES = ("hsic", "nhsic", "coco", "cka")


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

    Attributes:
        terms: dict layer name -> DependenceTerms of the last call.

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
    ) -> None:
        super().__init__()
        self.measure = check_choice(measure, "measure", MEASURES)
        self.lambda_x = _check_weight(lambda_x, "lambda_x")
        self.lambda_y = _check_weight(lambda_y, "lambda_y")
        check_kernel(kernel_y, "kernel_y")
        self.kernel = Gaussian(sigma)
        self.kernel_y = kernel_y
        self.num_classes = num_classes
        self._measure = _build_measure(
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
        self.terms = {}

    def extra_repr(self) -> str:
        """The settings, for printing."""
        return (
            f"measure={self.measure}, lambda_x={self.lambda_x}, lambda_y={self.lambda_y}, "
            f"sigma={self.kernel.sigma}"
        )

    def forward(
        self, x: Tensor, features: Mapping[str, Tensor] | Sequence[Tensor], y: Tensor
    ) -> Tensor:
        """The weighted sum over the layers.

        Args:
            x: Network input (n, ...), as the network sees it, n >= 2.
            features: Hidden outputs (n, ...) by layer name, or in a sequence; flattened to (n, -1).
            y: Integer labels (n,), or float targets (n, e).

        Returns:
            A 0-d float32 (float64 for float64 features) tensor. With both weights 0 it carries no
            gradient, so that training equals training without it, bit by bit.

        Raises:
            TypeError, ValueError: An argument does not fit; the layer is named.
        """
        layers = self._check(x, features, y)
        count = len(layers)
        inputs = [x.flatten(1), *layers.values(), y]
        if not self.lambda_x and not self.lambda_y:
            inputs = [v.detach() for v in inputs]
        label_kernel = self.kernel_y if is_labels(y) else self.kernel_y or self.kernel
        group = make_group(inputs, [self.kernel] * (1 + count) + [label_kernel], self.num_classes)
        first = list(range(1, count + 1))
        pairs = Pairs(first + first, [0] * count + [count + 1] * count)
        values = self._measure.values(group, pairs, self.workspace_bytes)
        d_x, d_y = values[:count], values[count:]
        total = values.new_zeros(())
        # A term without weight is still reported, but does not touch the value or the gradient.
        if self.lambda_x:
            total = total + self.lambda_x * d_x.sum()
        if self.lambda_y:
            total = total - self.lambda_y * d_y.sum()
        terms = values.detach().unbind()
        self.terms = {
            name: DependenceTerms(terms[i], terms[count + i]) for i, name in enumerate(layers)
        }
        _check_finite(total, self.terms, {"x": x, **layers})
        return total if x.dtype == torch.float64 else total.to(torch.float32)

    def _check(
        self, x: Tensor, features: Mapping[str, Tensor] | Sequence[Tensor], y: Tensor
    ) -> dict[str, Tensor]:
        layers = _named(features)
        if not isinstance(x, Tensor) or x.dtype not in FLOATS or x.dim() < 2:
            raise ValueError(f"x must be a floating-point batch (n, ...), got {_describe(x)}.")
        check_features(x.flatten(1), "x", 2)
        if not isinstance(y, Tensor) or not (is_labels(y) or y.dtype in FLOATS):
            raise TypeError(
                f"y must be integer labels (n,) or float targets (n, e), got {_describe(y)}."
            )
        if is_labels(y):
            check_labels(y, "y", self.num_classes)
        elif y.dim() != 2:
            raise ValueError(
                f"y is floating-point with shape {tuple(y.shape)}: class labels must be integers "
                "(n,), targets must be (n, e)."
            )
        check_same_samples(x, y, "x", "y")
        flat = {}
        for name, z in layers.items():
            if not isinstance(z, Tensor) or z.dtype not in FLOATS or z.dim() < 2:
                raise ValueError(
                    f"features of layer '{name}' must be a floating-point batch (n, ...), "
                    f"got {_describe(z)}."
                )
            flat[name] = check_features(z.flatten(1), f"features of layer '{name}'", 2)
            check_same_samples(x, flat[name], "x", f"features of layer '{name}'")
        return flat


def _named(features: object) -> dict[str, Tensor]:
    if isinstance(features, Mapping):
        named = dict(features)
    elif isinstance(features, Sequence) and not isinstance(features, (str, Tensor)):
        named = {str(i): z for i, z in enumerate(features)}
    else:
        raise TypeError(
            f"features must be a dict of layer name to tensor or a list of tensors, got {_describe(features)}."
        )
    if not named:
        raise ValueError(
            "features is empty: run the model's forward pass before the loss, with FeatureTaps on it."
        )
    return named


def _build_measure(
    name: str, eps: float, coco_norm: str, linalg_dtype: torch.dtype | None
) -> Measure:
    builders: dict[str, Callable[[], Measure]] = {
        "hsic": HsicMeasure,
        "nhsic": lambda: NhsicMeasure(eps, linalg_dtype),
        "coco": lambda: CocoMeasure(coco_norm, linalg_dtype),
        "cka": CkaMeasure,
    }
    return builders[name]()


def _check_weight(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}.")
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be finite and not negative, got {value}.")
    return float(value)


def _check_finite(
    total: Tensor, terms: dict[str, DependenceTerms], inputs: dict[str, Tensor]
) -> None:
    """On the CPU, outside of torch.compile: a value that is not finite names what made it so."""
    if total.device.type != "cpu" or torch.compiler.is_compiling() or bool(torch.isfinite(total)):
        return
    for name, tensor in inputs.items():
        if not bool(torch.isfinite(tensor).all()):
            what = "x" if name == "x" else f"features of layer '{name}'"
            raise ValueError(f"{what} contain(s) NaN or Inf: the dependence is undefined.")
    for name, term in terms.items():
        for side, value in zip(("d(X, Z)", "d(Z, Y)"), term, strict=True):
            if not bool(torch.isfinite(value)):
                raise ValueError(
                    f"{side} of layer '{name}' is not finite although its features are: their squared "
                    "distances overflow float32, or the Gram matrix is singular (raise eps)."
                )


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    return type(value).__name__

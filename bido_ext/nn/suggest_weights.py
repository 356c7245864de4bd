# SPDX-License-Identifier: Apache-2.0
"""Which weights? Measures how hard each dependence measure pulls beside the classification loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from bido_ext.nn.bido_loss import BiDOLoss
from bido_ext.nn.choose_layers import Selector
from bido_ext.nn.feature_taps import FeatureTaps
from bido_ext.nn.weight_ladder import SHARES, Y_PER_X, WeightSuggestion, make_ladder
from bido_ext.ops._validate import check_choice, check_positive
from bido_ext.ops.plan import MEASURES

Loss = Callable[[Tensor, Tensor], Tensor]


def suggest_weights(
    model: nn.Module,
    taps: Selector | FeatureTaps,
    batches: Iterable[Sequence[Tensor]],
    loss: Loss = nn.functional.cross_entropy,
    *,
    measures: Sequence[str] = MEASURES,
    outputs: Callable[[Any], Tensor] | None = None,
    seen: Callable[[Tensor], Tensor] | None = None,
    max_batches: int = 8,
    shares: Sequence[float] = SHARES,
    y_per_x: float | None = None,
    **settings: Any,
) -> WeightSuggestion:
    """Proposes weights (lambda_x, lambda_y) for ``BiDOLoss``, measured on your model and your batches.

    For each measure you get five pairs, from weak to strong. Each has a *share*: the gradient of its term
    with this weight, over the *push* of the classification loss. The push is the norm of the loss's gradient
    by the trainable parameters, taken at outputs of 0, where all classes are equally likely. Unlike the
    current gradient, it does not vanish as the model learns. Below a share of a few per cent, training hardly
    changes. Above 1, the classifier suffers.

    Give a model that was trained without BiDO for a short while, say an epoch. With fresh weights the numbers
    are less certain, by a factor of about 3. The model stays as it was: parameters, buffers, ``.grad``, hooks
    and the random state.

    Args:
        model: Any module, in the mode in which you want to measure it (train or eval).
        taps: The layers, as for :class:`bido_ext.FeatureTaps`, or the FeatureTaps of the model.
        batches: Pairs (x, y) of the batch size you train with, such as a DataLoader. Further entries are
            ignored. Batches are moved to the model's device.
        loss: ``loss(outputs, y)``, the mean over the batch, a 0-d tensor.
        measures: Measures to compare, as in ``BiDOLoss``.
        outputs: Takes what the model returns and gives the tensor for ``loss``, such as
            ``lambda out: out.logits``. Default: the output itself.
        seen: Takes x and gives the X of the terms. Use it if the model normalises its input inside.
            Default: x itself.
        max_batches: Number of batches to measure; results are medians over them.
        shares: Shares of lambda_x, one for each pair.
        y_per_x: Share of lambda_y divided by that of lambda_x. Default: 1.5 for nhsic and cka, 0.25 for coco
            and hsic.
        settings: Further arguments of ``BiDOLoss``, such as ``sigma``, ``kernel_y`` or ``num_classes``.

    Returns:
        A :class:`bido_ext.WeightSuggestion`. Print it, or take ``suggestion["nhsic"].middle.weights``.

    Raises:
        TypeError, ValueError: An argument does not fit, there was no batch, or no trainable parameter lies
            between the input and the tapped layers.

    Example:
        >>> found = suggest_weights(model, ["layer1", "layer2"], loader)
        >>> print(found)
        >>> criterion = BiDOLoss("nhsic", **found["nhsic"].middle.weights)
    """
    if not measures:
        raise ValueError(f"measures is empty; name at least one of {', '.join(MEASURES)}.")
    for name in measures:
        check_choice(name, "measures", MEASURES)
    rungs = tuple(check_positive(share, "shares") for share in shares)
    if not rungs:
        raise ValueError("shares is empty; give one share for each rung, such as (0.1, 0.3, 1).")
    if y_per_x is not None:
        check_positive(y_per_x, "y_per_x")
    if given := {"measure", "lambda_x", "lambda_y", "process_group"} & settings.keys():
        raise TypeError(f"suggest_weights takes no {sorted(given)[0]}; it looks for the weights.")
    if not callable(loss):
        raise TypeError(
            f"loss must be a function loss(outputs, y) -> one number, got {type(loss).__name__}."
        )
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("model has no parameter that requires a gradient.")
    # Made first: an argument that does not fit is told before anything runs.
    criteria = {name: _criteria(name, settings) for name in measures}
    watched = taps if isinstance(taps, FeatureTaps) else FeatureTaps(model, taps)
    found: list[_Batch] = []
    samples = 0
    try:
        with _left_as_it_was(model, parameters[0].device):
            for batch in islice(batches, max_batches):
                x, y = _pair(batch, parameters[0].device)
                out = model(x)
                out = out if outputs is None else outputs(out)
                of_x = x if seen is None else seen(x)
                found.append(_measure(out, watched.features, of_x, y, loss, criteria, parameters))
                samples += len(x)
    finally:
        if watched is not taps:
            watched.remove()
        watched.clear()
    if not found:
        raise ValueError("batches is empty; give at least one pair (x, y).")
    push = median(batch.push for batch in found)
    ladders = {}
    for name in measures:
        of = [batch.pulls[name] for batch in found]
        layers = list(of[0].terms)
        terms_x = {layer: median(pull.terms[layer][0] for pull in of) for layer in layers}
        terms_y = {layer: median(pull.terms[layer][1] for pull in of) for layer in layers}
        pulls = (median(pull.x for pull in of), median(pull.y for pull in of))
        ladders[name] = make_ladder(
            name, terms_x, terms_y, pulls, push, rungs, y_per_x or Y_PER_X[name]
        )
    return WeightSuggestion(
        ladders,
        median(batch.loss for batch in found),
        median(batch.gradient for batch in found),
        push,
        len(found),
        samples,
    )


class _Pull:
    """Terms by layer and the norms of the gradients of their sums, of one measure on one batch."""

    def __init__(self, terms: dict[str, tuple[float, float]], x: float, y: float) -> None:
        self.terms, self.x, self.y = terms, x, y


class _Batch:
    """What one batch gave."""

    def __init__(self, loss: float, gradient: float, push: float, pulls: dict[str, _Pull]) -> None:
        self.loss, self.gradient, self.push, self.pulls = loss, gradient, push, pulls


def _criteria(measure: str, settings: dict[str, Any]) -> tuple[BiDOLoss, BiDOLoss]:
    """The sum over the layers of d(X, Z_j), and minus that of d(Z_j, Y)."""
    return (
        BiDOLoss(measure, lambda_x=1.0, lambda_y=0.0, **settings),
        BiDOLoss(measure, lambda_x=0.0, lambda_y=1.0, **settings),
    )


def _measure(
    out: Any,
    features: dict[str, Tensor],
    x: Tensor,
    y: Tensor,
    loss: Loss,
    criteria: dict[str, tuple[BiDOLoss, BiDOLoss]],
    parameters: list[nn.Parameter],
) -> _Batch:
    if not isinstance(out, Tensor):
        raise TypeError(
            f"model returns {type(out).__name__}; say with outputs= which tensor of it the loss takes, as in "
            "outputs=lambda out: out.logits."
        )
    value = loss(out, y)
    if not isinstance(value, Tensor) or value.dim():
        raise TypeError("loss(outputs, y) must give one number, the mean over the batch.")

    def norm(root: Tensor, start: Tensor | None = None) -> float:
        if not root.requires_grad:
            return 0.0
        grads = torch.autograd.grad(root, parameters, start, retain_graph=True, allow_unused=True)
        # float64: the squares of many small entries lose nothing.
        norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in grads if g is not None]
        return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0

    undecided = torch.zeros_like(out, requires_grad=True)
    (start,) = torch.autograd.grad(loss(undecided, y), undecided)
    push = _usable(norm(out, start), "the classification loss", "Check loss and y.")
    pulls = {}
    for name, (of_x, of_y) in criteria.items():
        why = "Is anything that can be trained in front of the tapped layers, and does it depend on x?"
        pull_x = _usable(norm(of_x(x, features, y)), f"{name}: sum of d(X, Z)", why)
        pull_y = _usable(norm(of_y(x, features, y)), f"{name}: sum of d(Z, Y)", why)
        terms = {
            layer: (float(with_x), float(with_y)) for layer, (with_x, with_y) in of_x.terms.items()
        }
        pulls[name] = _Pull(terms, pull_x, pull_y)
    return _Batch(float(value.detach()), norm(value), push, pulls)


def _usable(norm: float, what: str, why: str) -> float:
    if norm > 0.0 and math.isfinite(norm):
        return norm
    raise ValueError(
        f"the gradient of {what} has norm {norm:g}, so no weight can be suggested. {why}"
    )


def _pair(batch: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    if isinstance(batch, Tensor) or not isinstance(batch, Sequence) or len(batch) < 2:
        raise TypeError(
            f"batches must give pairs (x, y) of tensors, got {type(batch).__name__}; for other batches pass "
            "a generator, as in ((b['pixels'], b['label']) for b in loader)."
        )
    x, y = batch[0], batch[1]
    for name, value in (("x", x), ("y", y)):
        if not isinstance(value, Tensor):
            raise TypeError(f"batches: {name} must be a tensor, got {type(value).__name__}.")
    return x.to(device), y.to(device)


@contextmanager
def _left_as_it_was(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Restores buffers (running averages) and the random state; gradients are never written."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.enable_grad():
            yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)

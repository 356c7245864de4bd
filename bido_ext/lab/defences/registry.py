# SPDX-License-Identifier: Apache-2.0
"""Defences by name: what each adds to the training loss of a classifier.

Sources: MID (Wang et al., AAAI 2021), BiDO (Peng et al., KDD 2022); the unilateral COCO penalty on
the logits is the ablation of BiDO's introduction: as in the published code, its kernel on the
logits is linear and its norm Frobenius's.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from bido_ext.lab.models import BottleneckClassifier

SIGMA = 5.0  # BiDO's bandwidth; it is scaled by the square root of the dimension inside


@dataclass(frozen=True)
class DefenceSpec:
    """One defence.

    Attributes:
        name: as on the command line.
        weights: names of its weights with the defaults, all floats >= 0.
        description: one line.
        needs_taps: whether the hidden layers are watched.
    """

    name: str
    weights: Mapping[str, float]
    description: str
    needs_taps: bool = False


DEFENCES: dict[str, DefenceSpec] = {
    spec.name: spec
    for spec in (
        DefenceSpec("none", {}, "cross-entropy alone"),
        DefenceSpec("mid", {"beta": 0.1}, "MID: variational bottleneck before the head"),
        DefenceSpec(
            "unilateral",
            {"lambda_x": 1.0},
            "COCO(inputs, logits) penalty alone; linear kernel on the logits, Frobenius norm",
        ),
        DefenceSpec(
            "bido-hsic",
            {"lambda_x": 0.05, "lambda_y": 0.5},
            "BiDO with normalised HSIC: less dependence on the input, more on the label",
            needs_taps=True,
        ),
        DefenceSpec(
            "bido-coco",
            {"lambda_x": 1.0, "lambda_y": 50.0},
            "BiDO with COCO (Gretton's, largest singular value)",
            needs_taps=True,
        ),
    )
}

# Names for people, in tables and plots.
LABELS = {
    "none": "no defence",
    "mid": "MID",
    "unilateral": "COCO(X, logits)",
    "bido-hsic": "BiDO-HSIC",
    "bido-coco": "BiDO-COCO",
}

# The loss term and its parts (detached) of one training step.
Penalty = Callable[[Tensor, Tensor, Tensor], tuple[Tensor | None, dict[str, Tensor]]]


@dataclass(frozen=True)
class Defence:
    """A defence with its weights, ready to be attached to a model.

    Args:
        name: key of ``DEFENCES``.
        weights: overrides of the default weights.
        taps: module names watched in the model (used if the defence needs them).

    Raises:
        ValueError: unknown name or weight, a negative or non-finite weight, or missing taps.
    """

    name: str
    weights: Mapping[str, float] = field(default_factory=dict)
    taps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", resolve_weights(self.name, self.weights))
        if DEFENCES[self.name].needs_taps and not self.taps:
            raise ValueError(f"taps must name at least one layer for the defence {self.name!r}")

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[Penalty]:
        """Watch ``model``; yields ``penalty(x, logits, y) -> (loss term or None, parts)``.

        Call ``penalty`` after the forward of the same ``x``. The hooks are gone on exit.
        """
        if self.name == "mid":
            yield self._mid_penalty(model)
        elif self.name == "unilateral":
            yield self._unilateral_penalty()
        elif DEFENCES[self.name].needs_taps and any(self.weights.values()):
            with self._bido_penalty(model) as penalty:
                yield penalty
        else:  # no defence, or BiDO with both weights 0: nothing enters the loss
            yield lambda x, logits, y: (None, {})

    def _mid_penalty(self, model: nn.Module) -> Penalty:
        if not isinstance(model, BottleneckClassifier):
            raise ValueError(
                "the defence 'mid' needs a model with a bottleneck: build_model(..., defence='mid')"
            )

        def penalty(x: Tensor, logits: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            assert model.kl is not None  # set by the forward that made the logits
            return self.weights["beta"] * model.kl, {"kl": model.kl.detach()}

        return penalty

    def _unilateral_penalty(self) -> Penalty:
        from bido_ext import Linear, coco

        def penalty(x: Tensor, logits: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            dependence = coco(x.flatten(1), logits, kernel_y=Linear(), norm="fro")
            return self.weights["lambda_x"] * dependence, {"coco(x,logits)": dependence.detach()}

        return penalty

    @contextmanager
    def _bido_penalty(self, model: nn.Module) -> Iterator[Penalty]:
        from bido_ext import BiDOLoss, FeatureTaps

        criterion = BiDOLoss(
            measure="nhsic" if self.name == "bido-hsic" else "coco",
            lambda_x=self.weights["lambda_x"],
            lambda_y=self.weights["lambda_y"],
            sigma=SIGMA,
        )
        watched = FeatureTaps(model, list(self.taps))

        def penalty(x: Tensor, logits: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            loss = criterion(x, watched.features, y)
            return loss, _named_terms(criterion.terms)

        try:
            yield penalty
        finally:
            watched.remove()


def resolve_weights(name: str, weights: Mapping[str, float]) -> dict[str, float]:
    """The defence's default weights with ``weights`` on top, checked."""
    if name not in DEFENCES:
        raise ValueError(f"unknown defence {name!r}; known: {', '.join(DEFENCES)}")
    allowed = DEFENCES[name].weights
    for key, value in weights.items():
        if key not in allowed:
            known = ", ".join(allowed) or "none"
            raise ValueError(f"the defence {name!r} has no weight {key!r}; its weights: {known}")
        if not 0.0 <= float(value) < float("inf"):
            raise ValueError(f"{key} must be a finite number of at least 0, got {value}")
    return {**allowed, **{key: float(value) for key, value in weights.items()}}


def _named_terms(terms: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The parts of the BiDO loss under the names of the training log's columns."""
    parts = {}
    for layer, (with_input, with_label) in terms.items():
        parts[f"d(x,{layer})"], parts[f"d({layer},y)"] = with_input, with_label
    return parts

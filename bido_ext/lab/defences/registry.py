# SPDX-License-Identifier: Apache-2.0
"""The defences by name; ``a+b`` is both together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from .rule import DefenceSpec, Extra, Penalty, Plan, Rule, Step

# The files of this folder, each with the defences of its ``SPECS``, in the order of every list.
FILES = (
    "none",
    "mid",
    "unilateral",
    "bido",
    "label_smoothing",
    "tl_dmi",
    "rolss",
    "midre",
    "trap_mid",
    "at_at",
    "dp_sgd",
    "serving",
)
DEFENCES: dict[str, DefenceSpec] = {
    spec.name: spec for file in FILES for spec in import_module(f".{file}", __package__).SPECS
}

# Names for people, in tables and plots.
LABELS = {name: spec.label for name, spec in DEFENCES.items()}


def parts_of(name: str) -> list[DefenceSpec]:
    """The defences in ``name``, as "bido-hsic" or "bido-hsic+ls".

    Raises:
        ValueError: an unknown defence, one that comes twice, or two that do not combine.
    """
    names = name.split("+")
    for part in names:
        if part not in DEFENCES:
            raise ValueError(f"unknown defence {part!r}; known: {', '.join(DEFENCES)}")
    if len(set(names)) < len(names) or (len(names) > 1 and "none" in names):
        raise ValueError(f"a combination names each defence once, and not 'none'; got {name!r}")
    specs = [DEFENCES[part] for part in names]
    own_loss = [spec.name for spec in specs if spec.replaces_loss]
    if len(own_loss) > 1:
        raise ValueError(f"{' and '.join(own_loss)} both replace the cross-entropy")
    for bound in (spec for spec in specs if spec.needs_per_image):
        coupled = [s.name for s in specs if s is not bound and not s.per_image]
        if coupled:
            raise ValueError(
                f"{bound.name} bounds what one image does to a step; under {coupled[0]} an image "
                "also changes what the others do, or enters twice, so the bound would not hold"
            )
    return specs


def draws_batches(name: str) -> bool:
    """Whether a defence in ``name`` draws the batches of the training."""
    return any(spec.draws_batches for spec in parts_of(name))


def label_of(name: str) -> str:
    """The name for people."""
    return " + ".join(LABELS.get(part, part) for part in name.split("+"))


def description_of(name: str) -> str:
    """One line."""
    return "; ".join(spec.description for spec in parts_of(name))


@dataclass(frozen=True)
class Defence:
    """A defence or a combination with its weights, ready to be attached to a model.

    Args:
        name: key of ``DEFENCES``, or several with "+" between them.
        weights: overrides of the default weights.
        taps: module names watched in the model (used if the defence needs them).

    Raises:
        ValueError: unknown name or weight, a bad weight, or missing taps.
    """

    name: str
    weights: Mapping[str, float] = field(default_factory=dict)
    taps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", resolve_weights(self.name, self.weights))
        if any(spec.needs_taps for spec in parts_of(self.name)) and not self.taps:
            raise ValueError(f"taps must name at least one layer for the defence {self.name!r}")
        object.__setattr__(self, "rules", rules_of(self.name, self.weights, self.taps))

    rules: tuple[Rule, ...] = field(init=False, repr=False, compare=False)

    def prepare(self, model: nn.Module, plan: Plan) -> None:
        """Change ``model`` before its optimiser is made."""
        for rule in self.rules:
            rule.prepare(model, plan)

    def optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimiser of the training."""
        for rule in self.rules:
            optimizer = rule.optimizer(optimizer)
        return optimizer

    def batches(self, generator: torch.Generator) -> Sequence[Tensor] | None:
        """Positions of the images of each batch of an epoch, if a defence draws them."""
        drawn = (rule.batches(generator) for rule in self.rules)
        return next((batches for batches in drawn if batches is not None), None)

    def set_training(self, model: nn.Module) -> None:
        """``model.train()`` but for what the defence holds back."""
        model.train()
        for rule in self.rules:
            rule.set_training(model)

    def images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The training images as the model gets them."""
        for rule in self.rules:
            x = rule.images(x, generator)
        return x

    def task_loss(self, logits: Tensor, y: Tensor, epoch: int, epochs: int) -> Tensor | None:
        """What takes the place of the cross-entropy, if anything."""
        losses = [rule.task_loss(logits, y, epoch, epochs) for rule in self.rules]
        return next((loss for loss in losses if loss is not None), None)

    def extras(self, step: Step) -> list[Extra]:
        """Images that join this step."""
        return [extra for rule in self.rules if (extra := rule.extra(step)) is not None]

    def told(self) -> dict[str, float]:
        """Numbers of the epoch that ended."""
        return {key: value for rule in self.rules for key, value in rule.told().items()}

    def state(self) -> dict[str, Any]:
        """What a killed training needs beside the model, by defence; those without are left out."""
        states = zip(parts_of(self.name), self.rules, strict=True)
        return {spec.name: state for spec, rule in states if (state := rule.state())}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``.

        Raises:
            ValueError: it is not that of these defences.
        """
        for spec, rule in zip(parts_of(self.name), self.rules, strict=True):
            if not rule.state():
                continue
            try:
                rule.load_state(state[spec.name])
            except (KeyError, TypeError, RuntimeError, ValueError) as error:
                raise ValueError(
                    f"the checkpoint has no state of {spec.name!r} that fits"
                ) from error

    def answers(self, probabilities: Tensor) -> Tensor:
        """What a query is told of the probabilities (n, classes)."""
        for rule in self.rules:
            probabilities = rule.answers(probabilities)
        return probabilities

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[Penalty]:
        """Watch ``model``; yields ``penalty(x, logits, y) -> (loss term or None, parts)``.

        Call ``penalty`` after the forward of the same ``x``. The hooks are gone on exit.
        """
        with ExitStack() as stack:
            penalties = [stack.enter_context(rule.attached(model)) for rule in self.rules]

            def penalty(
                x: Tensor, logits: Tensor, y: Tensor
            ) -> tuple[Tensor | None, dict[str, Tensor]]:
                total: Tensor | None = None
                told: dict[str, Tensor] = {}
                for one in penalties:
                    term, parts = one(x, logits, y)
                    told |= parts
                    if term is not None:
                        total = term if total is None else total + term
                return total, told

            yield penalty


def rules_of(name: str, weights: Mapping[str, float], taps: tuple[str, ...]) -> tuple[Rule, ...]:
    """The rules of a defence, each with its own of the ``weights``."""
    return tuple(
        spec.rule({key: weights[shown] for key, shown in _names(name)[spec.name].items()}, taps)
        for spec in parts_of(name)
    )


def resolve_weights(name: str, weights: Mapping[str, float]) -> dict[str, float]:
    """The defence's default weights with ``weights`` on top, checked.

    A weight that two defences of a combination have is called ``defence.weight``.
    """
    allowed: dict[str, float] = {}
    signed: set[str] = set()
    for spec in parts_of(name):
        for key, shown in _names(name)[spec.name].items():
            allowed[shown] = spec.weights[key]
            signed |= {shown} if key in spec.may_be_negative else set()
    for key, value in weights.items():
        if key not in allowed:
            known = ", ".join(allowed) or "none"
            raise ValueError(f"the defence {name!r} has no weight {key!r}; its weights: {known}")
        finite = float("-inf") < float(value) < float("inf")
        if not finite or (value < 0 and key not in signed):
            bound = "" if key in signed else " of at least 0"
            raise ValueError(f"{key} must be a finite number{bound}, got {value}")
    full = {**allowed, **{key: float(value) for key, value in weights.items()}}
    rules_of(name, full, ())  # their own checks
    return full


def arch_options_of(name: str, weights: Mapping[str, float]) -> dict[str, Any]:
    """Options of the classifier that the defence asks for."""
    options: dict[str, Any] = {}
    for spec, rule in zip(parts_of(name), rules_of(name, weights, ()), strict=True):
        asked = {} if spec.arch_options is None else spec.arch_options(rule.weights)
        if options.keys() & asked.keys():
            raise ValueError(f"two defences of {name!r} set {', '.join(asked)} of the classifier")
        options |= asked
    return options


def follows_epochs(name: str, weights: Mapping[str, float]) -> bool:
    """Whether the first epochs of a training depend on how many follow."""
    return any(rule.follows_epochs for rule in rules_of(name, weights, ()))


def _names(name: str) -> dict[str, dict[str, str]]:
    """Defence -> its weight -> what it is called in the combination."""
    specs = parts_of(name)
    every = [key for spec in specs for key in spec.weights]
    return {
        spec.name: {
            key: key if every.count(key) == 1 else f"{spec.name}.{key}" for key in spec.weights
        }
        for spec in specs
    }

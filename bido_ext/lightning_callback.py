# SPDX-License-Identifier: Apache-2.0
"""BiDO for a LightningModule that stays as it is; needs the package ``lightning``.

A callback's hooks see the loss too late to change it, so this one wraps ``training_step`` for the time of
a fit. The loss is then complete before Lightning scales it, divides it for accumulation and goes backward.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning
from torch import Tensor

from bido_ext.nn.bido_loss import BiDOLoss
from bido_ext.nn.feature_taps import FeatureTaps

STEP = "training_step"


def input_and_labels(batch: Any) -> tuple[Tensor, Tensor]:
    """Of a batch that is a tuple or list (x, y)."""
    if not isinstance(batch, Sequence) or len(batch) != 2:
        raise TypeError(
            f"the batch is a {type(batch).__name__}, not (x, y): give BiDOCallback split=, a function that "
            "takes the batch and returns input and labels."
        )
    return batch[0], batch[1]


class BiDOCallback(lightning.Callback):
    """Adds the BiDO term to the loss of a LightningModule. The module itself does not change.

    It wraps ``training_step`` during a fit and restores it afterwards, also after an exception. Several of
    these callbacks each add their term.

    Args:
        criterion: The BiDOLoss to add.
        layers: Names of the modules to tap, as seen from the LightningModule: "net.layer1".
        split: Takes the batch that training_step gets and returns input (n, ...) and labels (n,). Default:
            the batch is (x, y).
        log: Log the term as "bido" in each step.

    Raises:
        ValueError: At the start of a fit: a layer does not exist, or the module optimizes manually.
        TypeError: layers is not a list. In a step: training_step returns neither a tensor nor a dict with
            "loss", or the batch is not (x, y) and no split was given.

    Example:
        >>> Trainer(callbacks=[BiDOCallback(BiDOLoss("nhsic"), ["net.layer1", "net.layer2"])])
    """

    def __init__(
        self,
        criterion: BiDOLoss,
        layers: Sequence[str],
        split: Callable[[Any], tuple[Tensor, Tensor]] = input_and_labels,
        log: bool = True,
    ) -> None:
        if isinstance(layers, str) or not isinstance(layers, Sequence):
            raise TypeError(
                'layers must be a list of names such as ["net.layer1"], got '
                f"{layers!r} of type {type(layers).__name__}."
            )
        self.criterion, self.layers, self.split, self.log_term = criterion, list(layers), split, log
        self._attached: _Attached | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Taps the layers and wraps training_step; Lightning calls it when a fit begins."""
        if stage != "fit":
            return
        if not pl_module.automatic_optimization:
            raise ValueError(
                "BiDOCallback changes the loss that training_step returns, but this module optimizes by hand: "
                "add the term there, loss + criterion(x, taps.features, y)."
            )
        self._detach()
        _drop_leftovers(pl_module, trainer.callbacks)
        self._attached = attached = _Attached(
            self, pl_module, FeatureTaps(pl_module, self.layers), vars(pl_module).get(STEP)
        )
        pl_module.training_step = attached.step = self._wrapper(attached)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """As teardown, which Lightning does not call then."""
        self._detach()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Gives the module its own training_step back."""
        self._detach()

    def _detach(self) -> None:
        if self._attached is not None:
            self._attached.undo()
            self._attached = None

    def _wrapper(self, attached: _Attached) -> Callable[..., Any]:
        plain_step = attached.module.training_step

        @functools.wraps(plain_step)
        def training_step(batch: Any, *args: Any, **kwargs: Any) -> Any:
            if not attached.active:
                return plain_step(batch, *args, **kwargs)
            # The step may call parts of the module, whose own forward then does not clear the taps.
            attached.taps.clear()
            output = plain_step(batch, *args, **kwargs)
            if output is None:  # a step that Lightning skips
                return None
            x, y = self.split(batch)
            term = self.criterion(x, attached.taps.features, y)
            if self.log_term:
                attached.module.log("bido", term.detach())
            return _plus(output, term)

        step: Any = training_step
        # Lightning looks one decorator deep for the arguments that the step takes.
        step.__wrapped__ = getattr(plain_step, "__wrapped__", plain_step)
        step.bido_attached = attached
        return training_step


@dataclass(eq=False)
class _Attached:
    """What a callback put on a module: its taps, and a training_step over the one ``before``."""

    callback: BiDOCallback
    module: Any
    taps: FeatureTaps
    before: Any  # the step set on the instance; None: the one of the class
    step: Any = None
    active: bool = True

    def undo(self) -> None:
        """Takes the taps off, and the step if it is on top; beneath another's it only passes through."""
        self.active = False
        self.taps.remove()
        while (top := _on_top(self.module)) is not None and not top.active:
            if top.before is None:
                del self.module.training_step
            else:
                self.module.training_step = top.before


def _on_top(module: Any) -> _Attached | None:
    """Of the module's training_step, if it is a callback's and nobody's wrapper of one."""
    step = vars(module).get(STEP)
    attached: _Attached | None = getattr(step, "bido_attached", None)
    return attached if attached is not None and attached.step is step else None


def _drop_leftovers(module: Any, callbacks: Sequence[Any]) -> None:
    """Undoes what callbacks that are not part of this fit left on the module."""
    while (top := _on_top(module)) is not None and not any(c is top.callback for c in callbacks):
        top.undo()


def _plus(output: Any, term: Tensor) -> Any:
    if isinstance(output, Tensor):
        return output + term
    if isinstance(output, Mapping) and isinstance(output.get("loss"), Tensor):
        return {**output, "loss": output["loss"] + term}
    raise TypeError(
        f"training_step returned a {type(output).__name__}: a tensor or a dict with the tensor 'loss' is "
        "needed."
    )

# SPDX-License-Identifier: Apache-2.0
"""BiDO for a LightningModule that stays as it is; needs the package ``lightning``.

A callback's hooks see the loss too late to change it, so this one wraps ``training_step`` for the time of
a fit. The loss is then complete before Lightning scales it, divides it for accumulation and goes backward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning
from torch import Tensor

from bido_ext.nn.bido_loss import BiDOLoss
from bido_ext.nn.feature_taps import FeatureTaps


def input_and_labels(batch: Any) -> tuple[Tensor, Tensor]:
    """Of a batch that is a tuple or list (x, y)."""
    if not isinstance(batch, Sequence) or len(batch) != 2:
        raise TypeError(
            f"the batch is a {type(batch).__name__}, not (x, y): give BiDOCallback split=, a function that "
            "takes the batch and returns input and labels."
        )
    return batch[0], batch[1]


class BiDOCallback(lightning.Callback):
    """Adds the BiDO term to the loss that training_step returns.

    Args:
        criterion: The term.
        layers: Modules to tap, named from the LightningModule: "net.layer1".
        split: Takes the batch that training_step gets and returns input (n, ...) and labels (n,).
        log: Log the term as "bido" in each step.

    Raises:
        ValueError: At the start of a fit: a layer does not exist, or the module optimizes by hand.
        TypeError: training_step returns neither a tensor nor a dict with "loss", or the batch is not (x, y).

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
        self.criterion, self.layers, self.split, self.log_term = criterion, list(layers), split, log
        self._taps: FeatureTaps | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Taps the layers and wraps training_step; Lightning calls it when a fit begins."""
        if stage != "fit":
            return
        if not pl_module.automatic_optimization:
            raise ValueError(
                "BiDOCallback changes the loss that training_step returns, but this module optimizes by hand: "
                "add the term there, loss + criterion(x, taps.features, y)."
            )
        self._taps = taps = FeatureTaps(pl_module, self.layers)
        plain_step = pl_module.training_step

        def training_step(batch: Any, *args: Any, **kwargs: Any) -> Any:
            output = plain_step(batch, *args, **kwargs)
            if output is None:  # a step that Lightning skips
                return None
            x, y = self.split(batch)
            term = self.criterion(x, taps.features, y)
            if self.log_term:
                pl_module.log("bido", term.detach())
            return _plus(output, term)

        pl_module.training_step = training_step

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Gives the module its own training_step back."""
        if self._taps is not None:
            del pl_module.training_step
            self._taps.remove()
            self._taps = None


def _plus(output: Any, term: Tensor) -> Any:
    if isinstance(output, Tensor):
        return output + term
    if isinstance(output, Mapping) and isinstance(output.get("loss"), Tensor):
        return {**output, "loss": output["loss"] + term}
    raise TypeError(
        f"training_step returned a {type(output).__name__}: a tensor or a dict with the tensor 'loss' is "
        "needed."
    )

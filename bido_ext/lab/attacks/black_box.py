# SPDX-License-Identifier: Apache-2.0
"""The target as a black-box attack meets it: it answers queries, counts them and has no gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bido_ext.lab.models.checkpoint import weights_digest

from .target import at_least_float32, place


class BudgetError(RuntimeError):
    """A query would go beyond the budget."""


class BlackBox:
    """Answers instead of a network: no attribute of it is one, and no answer carries a gradient.

    Args:
        model: the target; it is put in eval mode.
        labels_only: whether ``probabilities`` is refused.
        answers: what the service makes of its probabilities (n, classes) before it answers.
        budget: the most images that may be asked about; 0: no limit.
        spent: images asked about before, which count.
        device: where the model answers.

    Attributes:
        digest: hash of the weights, to tell a resumed attack from one on another model.
        queries: images asked about so far.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        labels_only: bool,
        answers: Callable[[Tensor], Tensor] | None = None,
        budget: int = 0,
        spent: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        where = torch.device(device)
        place(model, device=where)
        self.digest, self.labels_only, self.budget = weights_digest(model), labels_only, budget
        self.queries = spent

        @torch.no_grad()
        def ask(images: Tensor) -> Tensor:
            shown = at_least_float32(model(images.detach().to(where))).softmax(1)
            return shown if answers is None else answers(shown)

        self._ask = ask

    def outputs(self, shape: tuple[int, ...]) -> int:
        """How many classes there are, which anybody knows; no query.

        Raises:
            ValueError: the target does not take images of ``shape``.
        """
        try:
            return int(self._ask(torch.zeros(2, *shape)).shape[1])
        except RuntimeError as error:
            raise ValueError(
                f"target must take the attack's images of shape {shape}: {error}"
            ) from error

    def labels(self, images: Tensor) -> Tensor:
        """The answered labels (n,) of ``images`` (n, ...), on the CPU; -1 where the answer is NaN.

        Raises:
            BudgetError: beyond the budget; nothing was asked.
        """
        answered = self._counted(images)
        return torch.where(answered.isnan().any(1), -1, answered.argmax(1))

    def probabilities(self, images: Tensor) -> Tensor:
        """The answered probabilities (n, classes) of ``images`` (n, ...), on the CPU.

        Raises:
            BudgetError: beyond the budget; nothing was asked.
            PermissionError: the access is that of labels alone.
        """
        if self.labels_only:
            raise PermissionError("a label-only attack is told no probabilities")
        return self._counted(images)

    def _counted(self, images: Tensor) -> Tensor:
        if self.budget and self.queries + len(images) > self.budget:
            raise BudgetError(
                f"{self.queries} of {self.budget} queries are spent, {len(images)} more are too many"
            )
        self.queries += len(images)
        return self._ask(images).cpu()

# SPDX-License-Identifier: Apache-2.0
"""BiDO: hidden layers depend less on the input and more on the label (Peng et al., KDD 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from .rule import DefenceSpec, Penalty, Rule, no_penalty

SIGMA = 5.0  # BiDO's bandwidth; it is scaled by the square root of the dimension inside


class Bido(Rule):
    """The package's ``BiDOLoss`` on the watched layers."""

    measure: str

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[Penalty]:
        """See ``Rule``."""
        if not any(self.weights.values()):
            yield no_penalty
            return
        from bido_ext import BiDOLoss, FeatureTaps

        criterion = BiDOLoss(
            measure=self.measure,
            lambda_x=self.weights["lambda_x"],
            lambda_y=self.weights["lambda_y"],
            sigma=SIGMA,
        )
        watched = FeatureTaps(model, list(self.taps))

        def penalty(x: Tensor, logits: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            features = watched.features
            if any(len(z) > len(x) for z in features.values()):  # another defence's images
                features = {layer: z[: len(x)] for layer, z in features.items()}
            loss = criterion(x, features, y)
            return loss, _named_terms(criterion.terms)

        try:
            yield penalty
        finally:
            watched.remove()


def _named_terms(terms: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The parts of the loss under the names of the training log's columns."""
    parts = {}
    for layer, (with_input, with_label) in terms.items():
        parts[f"d(x,{layer})"], parts[f"d({layer},y)"] = with_input, with_label
    return parts


class BidoHsic(Bido):
    """With normalised HSIC."""

    measure = "nhsic"


class BidoCoco(Bido):
    """With COCO."""

    measure = "coco"


HSIC = DefenceSpec(
    "bido-hsic",
    {"lambda_x": 0.05, "lambda_y": 0.5},
    "BiDO with normalised HSIC: less dependence on the input, more on the label",
    "BiDO-HSIC",
    BidoHsic,
    needs_taps=True,
)
COCO = DefenceSpec(
    "bido-coco",
    {"lambda_x": 1.0, "lambda_y": 50.0},
    "BiDO with COCO (Gretton's, largest singular value)",
    "BiDO-COCO",
    BidoCoco,
    needs_taps=True,
)
SPECS = (HSIC, COCO)

# SPDX-License-Identifier: Apache-2.0
"""The Lightning callback trains as the module that adds the term itself, and leaves no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import bido_ext as bx

lightning = pytest.importorskip("lightning")
pytestmark = pytest.mark.filterwarnings("ignore")
BATCHES = [(torch.rand(8, 6), torch.arange(8) % 3) for _ in range(4)]


def classifier(**attributes: Any) -> Any:
    """A LightningModule; ``inside``: with the term in its own step."""

    class Classifier(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
            self.inside = attributes.get("inside", False)
            self.returns = attributes.get("returns", lambda loss: loss)
            self.automatic_optimization = attributes.get("automatic", True)
            if self.inside:
                self.taps, self.criterion = (
                    bx.FeatureTaps(self.net, ["1"]),
                    bx.BiDOLoss("hsic", 1, 2),
                )

        def training_step(self, batch: Any, index: int) -> Any:
            x, y = batch
            loss = F.cross_entropy(self.net(x), y)
            if self.inside:
                loss = loss + self.criterion(x, self.taps.features, y)
            return self.returns(loss)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.5)

    return Classifier()


def fit(module: Any, *callbacks: Any, batches: Any = BATCHES, **options: Any) -> Any:
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=list(callbacks),
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return trainer


def callback(**options: Any) -> Any:
    from bido_ext.lightning_callback import BiDOCallback

    return BiDOCallback(bx.BiDOLoss("hsic", 1, 2), ["net.1"], **options)


@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}]
)
@pytest.mark.parametrize("returns", [lambda loss: loss, lambda loss: {"loss": loss, "more": 1}])
def test_trains_as_the_term_in_the_step(options: dict[str, Any], returns: Any) -> None:
    one, other, plain = classifier(returns=returns), classifier(inside=True), classifier()
    trainer = fit(one, callback(), **options)
    fit(other, **options)
    fit(plain, **options)
    for p, q, r in zip(one.parameters(), other.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q)
        assert not torch.equal(p, r)
    assert float(trainer.logged_metrics["bido"]) != 0
    assert "training_step" not in vars(one)
    assert not one.net[1]._forward_hooks


def test_a_batch_of_another_form_needs_split() -> None:
    batches = [{"image": x, "label": y} for x, y in BATCHES]

    def split(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return batch["image"], batch["label"]

    module = classifier()
    own = module.training_step
    type(module).training_step = lambda self, batch, index: own(split(batch), index)
    fit(module, callback(split=split, log=False), batches=batches)
    with pytest.raises(
        TypeError, match=r"the batch is a dict, not \(x, y\): give BiDOCallback split="
    ):
        fit(module, callback(), batches=batches)


def test_what_cannot_work_is_said() -> None:
    with pytest.raises(ValueError, match="this module optimizes by hand"):
        fit(classifier(automatic=False), callback())
    with pytest.raises(TypeError, match="training_step returned a dict"):
        fit(classifier(returns=lambda loss: {"total": loss}), callback())

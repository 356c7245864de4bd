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
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    # The last layer sees little of the term: in bfloat16 its bias may round to that of plain training.
    assert not torch.equal(one.net[0].weight, plain.net[0].weight)
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


def wrong_layers(layers: Any) -> Any:
    from bido_ext.lightning_callback import BiDOCallback

    return BiDOCallback(bx.BiDOLoss("hsic"), layers)


@pytest.mark.parametrize("layers", ["net.0", 5])
def test_layers_that_are_no_list_are_refused(layers: Any) -> None:
    with pytest.raises(TypeError, match=r'layers must be a list of names such as \["net.layer1"\]'):
        wrong_layers(layers)


def without_trace(module: Any) -> bool:
    hooks = [*module._forward_pre_hooks, *(h for m in module.modules() for h in m._forward_hooks)]
    return "training_step" not in vars(module) and not hooks


class Interrupted(lightning.Callback):  # type: ignore[misc, name-defined]
    """Ends the fit after its second step."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        if index == 1:
            raise self.error


@pytest.mark.parametrize("error", [ValueError("stop"), KeyboardInterrupt()])
def test_a_fit_that_raised_leaves_no_trace(error: BaseException) -> None:
    module, own = classifier(), callback()
    with pytest.raises((ValueError, SystemExit, KeyboardInterrupt)):
        fit(module, own, Interrupted(error))
    assert without_trace(module)


class Unaware:
    """A mixin for a callback that is told of no exception and of no end."""

    def on_exception(self, *args: Any, **options: Any) -> None: ...

    def teardown(self, *args: Any, **options: Any) -> None: ...


def unaware_callback() -> Any:
    plain = callback()
    plain.__class__ = type("UnawareCallback", (Unaware, type(plain)), {})
    return plain


@pytest.mark.parametrize("same", [True, False])
def test_what_a_killed_fit_left_adds_no_second_term(same: bool) -> None:
    module, rival = classifier(), classifier()
    state = {k: v.clone() for k, v in module.state_dict().items()}
    left = unaware_callback()
    fit(module, left)
    assert not without_trace(module)
    module.load_state_dict(state)
    if same:
        left.__class__ = type(callback())
    fit(module, left if same else callback())
    fit(rival, callback())
    for p, q in zip(module.parameters(), rival.parameters(), strict=True):
        assert torch.equal(p, q)
    assert without_trace(module)


def test_a_step_that_takes_the_batch_alone() -> None:
    module = classifier()
    own = type(module).training_step
    type(module).training_step = lambda self, batch: own(self, batch, 0)
    rival = classifier()
    fit(module, callback())
    fit(rival, callback())
    for p, q in zip(module.parameters(), rival.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("alone", [True, False])
def test_two_callbacks_add_both_terms(alone: bool) -> None:
    module, rival = classifier(), classifier()
    if alone:
        own = type(module).training_step
        type(module).training_step = lambda self, batch: own(self, batch, 0)
    fit(module, callback(), callback(log=False))
    twice = callback()
    twice.criterion = bx.BiDOLoss("hsic", 2, 4)
    fit(rival, twice)
    for p, q in zip(module.parameters(), rival.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert without_trace(module)


def test_a_step_set_on_the_instance_stays() -> None:
    module = classifier()
    own = module.training_step

    def set_before(batch: Any, batch_idx: int) -> Any:
        return own(batch, batch_idx)

    module.training_step = set_before
    fit(module, callback(), callback(log=False))
    assert module.training_step is set_before
    assert not module.net[1]._forward_hooks


class Wraps(lightning.Callback):  # type: ignore[misc, name-defined]
    """Sets a step of its own over the one it finds."""

    def setup(self, trainer: Any, module: Any, stage: str) -> None:
        found = module.training_step
        module.training_step = lambda batch, batch_idx: found(batch, batch_idx)
        self.step = module.training_step


def test_a_step_that_another_set_over_it_stays_and_adds_nothing() -> None:
    module, wraps = classifier(), Wraps()
    fit(module, callback(), wraps)
    assert module.training_step is wraps.step
    x, y = BATCHES[0]
    assert torch.equal(module.training_step((x, y), 0), F.cross_entropy(module.net(x), y))


class TwoPaths(lightning.LightningModule):  # type: ignore[misc, name-defined]
    """Runs a layer in its first step only, and never its own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 5), nn.Sequential(nn.ReLU()), nn.Linear(5, 3))
        self.more = nn.Linear(5, 5)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        hidden = self.net[1](self.net[0](x))
        return F.cross_entropy(self.net[2](hidden if batch_idx else self.more(hidden)), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_features_of_an_earlier_step_are_not_taken() -> None:
    seen: list[list[str]] = []
    own = callback()
    own.layers = ["net.1", "more"]
    own.criterion.register_forward_hook(lambda m, args, out: seen.append(list(args[1])))
    fit(TwoPaths(), own)
    assert seen[:2] == [["net.1", "more"], ["net.1"]]

# SPDX-License-Identifier: Apache-2.0
"""Training: it learns, it is chosen on the validation split, and a killed run continues exactly."""

import csv
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch.utils.data import TensorDataset

from bido_ext.lab.data.digits import split_digits
from bido_ext.lab.data.synthetic import synthetic_digits
from bido_ext.lab.models.checkpoint import load_model
from bido_ext.lab.training import train as training
from bido_ext.lab.training.train import TrainConfig, train_classifier, train_evaluator

SHORT = TrainConfig(epochs=2, batch_size=16, lr=2e-3)
DEFENCES = [
    ("none", {}),
    ("mid", {"beta": 0.1}),
    ("unilateral", {"lambda_x": 1.0}),
    ("bido-hsic", {"lambda_x": 0.1, "lambda_y": 1.0}),
    ("bido-coco", {"lambda_x": 1.0, "lambda_y": 50.0}),
]
# With a state of their own, or steps that cost several forwards.
DEARER = [
    pytest.param("trap-mid+bido-hsic+ls", {}),
    pytest.param("at-at", {}),
    pytest.param(
        "dp-sgd", {}, marks=pytest.mark.skipif(find_spec("opacus") is None, reason="no Opacus")
    ),
]


@pytest.fixture(scope="module")
def task():
    return split_digits(synthetic_digits(200, 60))


def _train(config, task, folder, **options):
    return train_classifier(config, task, folder, progress=False, **options)


def _weights(result):
    return list(result.model.state_dict().values())


def test_learns_and_writes_its_files(task, tmp_path):
    config = TrainConfig(epochs=8, batch_size=16, lr=2e-3, schedule="cosine")
    result = _train(config, split_digits(synthetic_digits(500, 60)), tmp_path)
    assert result.test_accuracy > 0.8
    assert not result.model.training
    model, info = load_model(result.path, "mcnn", 5)
    assert all(map(torch.equal, model.state_dict().values(), _weights(result)))
    assert info["metrics"]["test_accuracy"] == result.test_accuracy
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint.pt", "log.csv", "model.pt"}


@pytest.mark.parametrize(("defence", "weights"), [*DEFENCES, *DEARER])
def test_interrupted_run_ends_as_the_whole_one(tmp_path, monkeypatch, defence, weights):
    task = split_digits(synthetic_digits(80, 30))
    config = replace(SHORT, defence=defence, weights=weights, schedule="cosine", epochs=3)
    whole = _train(config, task, tmp_path / "whole")
    epoch = training._epoch

    def killed_in_epoch_3(config, number, *rest):
        if number == 3:
            raise KeyboardInterrupt
        return epoch(config, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_epoch", killed_in_epoch_3)
        with pytest.raises(KeyboardInterrupt):
            _train(config, task, tmp_path / "killed")
    torch.rand(7)  # a new process would not have the old one's random state either
    resumed = _train(config, task, tmp_path / "killed")
    assert all(map(torch.equal, _weights(whole), _weights(resumed)))
    assert resumed.history == whole.history
    assert resumed.test_accuracy == whole.test_accuracy


def test_finished_run_is_not_repeated(task, tmp_path, monkeypatch):
    first = _train(SHORT, task, tmp_path)
    monkeypatch.setattr(training, "_epoch", None)
    again = _train(SHORT, task, tmp_path)
    assert all(map(torch.equal, _weights(first), _weights(again)))
    assert again.seconds == first.seconds


def test_log_has_every_dependence_term(task, tmp_path):
    _train(replace(SHORT, defence="bido-coco"), task, tmp_path)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    terms = [f"d({pair})" for k in (1, 2, 3) for pair in (f"x,layer{k}", f"layer{k},y")]
    assert list(rows[0]) == ["epoch", "loss", "ce", *terms, "val_accuracy"]
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["ce"]) < float(rows[0]["ce"])


def test_model_is_chosen_on_the_validation_split(task, tmp_path, monkeypatch):
    # Validation says 0.9, 0.2, 0.1; the test split is only asked once, at the end.
    asked, answers = [], iter([0.9, 0.2, 0.1, 0.5])

    def accuracy(model, data):
        asked.append(data)
        return next(answers)

    monkeypatch.setattr(training, "accuracy", accuracy)
    result = _train(replace(SHORT, epochs=3), task, tmp_path / "three")
    assert (result.val_accuracy, result.test_accuracy) == (0.9, 0.5)
    assert [data is task.test for data in asked] == [False, False, False, True]
    monkeypatch.undo()
    after_one = _train(replace(SHORT, epochs=1), task, tmp_path / "one")
    assert all(map(torch.equal, _weights(result), _weights(after_one)))


def test_zero_weights_train_bit_for_bit_like_no_defence(task, tmp_path):
    zero = {"lambda_x": 0.0, "lambda_y": 0.0}
    plain = _train(SHORT, task, tmp_path / "plain")
    for defence in ("bido-hsic", "bido-coco"):
        config = replace(SHORT, defence=defence, weights=zero)
        assert all(
            map(torch.equal, _weights(plain), _weights(_train(config, task, tmp_path / defence)))
        )


def test_seed_decides_the_run(task, tmp_path):
    first = _train(SHORT, task, tmp_path / "a")
    same = _train(SHORT, task, tmp_path / "b")
    other = _train(replace(SHORT, seed=1), task, tmp_path / "c")
    assert all(map(torch.equal, _weights(first), _weights(same)))
    assert not all(map(torch.equal, _weights(first), _weights(other)))


def test_evaluator_knows_ten_classes_and_has_features(task, tmp_path):
    config = replace(SHORT, arch="scnn", epochs=1, augment="handwriting")
    result = train_evaluator(task, tmp_path, config=config, progress=False)
    x = torch.rand(2, 1, 32, 32)
    assert result.model(x).shape == (2, 10)
    assert result.model.features(x).shape == (2, 512)


def test_sgd(task, tmp_path):
    result = _train(replace(SHORT, optimizer="sgd", lr=1e-2, weight_decay=1e-4), task, tmp_path)
    assert result.history[-1]["ce"] < result.history[0]["ce"]


def test_run_of_another_configuration_is_refused(task, tmp_path):
    _train(replace(SHORT, epochs=1), task, tmp_path)
    with pytest.raises(ValueError, match="was made with lr=0.002, now lr=0.001"):
        _train(replace(SHORT, lr=1e-3), task, tmp_path)
    assert len(_train(replace(SHORT, lr=1e-3), task, tmp_path, resume=False).history) == 2


@pytest.mark.parametrize(
    "schedule", [{}, {"schedule": "multistep", "milestones": (2,)}, {"defence": "mid"}]
)
def test_more_epochs_continue_to_the_same_weights(task, tmp_path, schedule):
    config = replace(SHORT, epochs=3, **schedule)
    whole = _train(config, task, tmp_path / "whole")
    _train(replace(config, epochs=1), task, tmp_path / "grown")
    grown = _train(config, task, tmp_path / "grown")
    assert all(map(torch.equal, _weights(whole), _weights(grown)))
    assert grown.history == whole.history
    with pytest.raises(ValueError, match="is at epoch 3 already, now epochs=2"):
        _train(replace(config, epochs=2), task, tmp_path / "grown")


def test_a_cosine_over_other_epochs_is_another_training(task, tmp_path):
    config = replace(SHORT, schedule="cosine", epochs=1)
    _train(config, task, tmp_path)
    with pytest.raises(ValueError, match="was made with epochs=1, now epochs=2"):
        _train(replace(config, epochs=2), task, tmp_path)


@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay", "gamma"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_must_be_finite(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be a finite number, got {value}"):
        TrainConfig(**{name: value})


def test_diverged_training_says_so(task, tmp_path):
    broken = replace(
        task, train=TensorDataset(task.train.tensors[0] * float("nan"), task.train.tensors[1])
    )
    with pytest.raises(FloatingPointError, match=r"loss is nan in epoch 1; lower lr \(0.002\)"):
        _train(SHORT, broken, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "vgg"}, "arch must be one of mcnn, scnn, .* got 'vgg'"),
        ({"defence": "dropout"}, "unknown defence 'dropout'"),
        ({"defence": "mid", "weights": {"gamma": 1}}, "has no weight 'gamma'"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"optimizer": "lion"}, "optimizer must be one of .* got 'lion'"),
        ({"schedule": "step"}, "schedule must be one of .* got 'step'"),
        ({"augment": "blur"}, "augment must be one of .* got 'blur'"),
        ({"sampler": "sorted"}, "sampler must be one of .* got 'sorted'"),
        ({"sampler": "identity", "per_identity": 5}, "multiple of per_identity=5, got 64"),
        ({"schedule": "multistep"}, "milestones belong to the schedule 'multistep'"),
        ({"arch": "mcnn", "arch_options": {"width": 1}}, "'mcnn' has no option 'width'"),
    ],
)
def test_bad_configuration(change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**change)


def test_images_must_fit_the_model_and_the_batch(task, tmp_path):
    with pytest.raises(ValueError, match=r"'lenet3' takes images of shape \(1, 28, 28\), got"):
        _train(replace(SHORT, arch="lenet3"), task, tmp_path)
    with pytest.raises(ValueError, match=r"batch_size=500 is larger than the training set \(90"):
        _train(replace(SHORT, batch_size=500), task, tmp_path)

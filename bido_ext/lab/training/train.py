# SPDX-License-Identifier: Apache-2.0
"""Train a classifier under a defence; the model is chosen on the validation split.

Every epoch draws its randomness from (seed, epoch) alone and ends with a checkpoint, so a killed
run loses at most one epoch and continues to the same weights.
"""

import csv
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bido_ext.lab.data.atomic import replacing
from bido_ext.lab.data.image_set import ImageSet
from bido_ext.lab.data.training_augment import training_augmentation
from bido_ext.lab.defences import Defence, Penalty, Plan
from bido_ext.lab.models import build_model, load_pretrained
from bido_ext.lab.models.checkpoint import resume_or_none, save_model
from bido_ext.lab.models.pretrained import file_sha256
from bido_ext.lab.models.safe_save import save_atomic
from bido_ext.lab.models.wanted import WeightsFileError

from .batches import EpochBatches
from .loss import StepLoss
from .optimizers import build_optimizer, build_scheduler
from .splits import Images, Splits, Task, check_images, splits_of
from .train_config import EVALUATOR, TrainConfig

__all__ = [
    "EVALUATOR",
    "TrainConfig",
    "TrainResult",
    "accuracy",
    "train_classifier",
    "train_evaluator",
]

# What a run continues from.
_STATE = {"epoch": int, "seconds": float, "best": dict, "best_val": float, "history": list}
_STATE |= dict.fromkeys(("model", "optimizer", "scheduler"), dict)
_MOST_VALUES = 2**24  # of the images in one batch of a test: activations take many times that


@dataclass
class TrainResult:
    """A trained classifier (eval mode) and how it came about.

    Attributes:
        val_accuracy: of the chosen epoch; test_accuracy: of the same weights (shares in [0, 1]).
        history: one row per epoch, as in ``log.csv``.
        seconds: training time, earlier interrupted runs included.
        path: the model file.
    """

    model: nn.Module
    val_accuracy: float
    test_accuracy: float
    history: list[dict[str, float]]
    seconds: float
    path: Path


def train_classifier(
    config: TrainConfig,
    task: Task,
    run_dir: Path | str,
    *,
    resume: bool = True,
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> TrainResult:
    """Train ``config.arch`` on the private classes of ``task``.

    Writes ``log.csv``, ``checkpoint.pt`` (each epoch) and ``model.pt`` into ``run_dir``.

    Args:
        resume: continue a run of the same configuration found in ``run_dir``; unless the schedule
            is "cosine", also one of fewer epochs.

    Raises:
        ValueError: the images do not fit the model, or ``run_dir`` holds another configuration.
        FloatingPointError: the loss is no longer finite.
    """
    data = splits_of(config, task, evaluator=False)
    return _fit(config, data, Path(run_dir), torch.device(device), resume, progress)


def train_evaluator(
    task: Task,
    run_dir: Path | str,
    *,
    config: TrainConfig = EVALUATOR,
    resume: bool = True,
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> TrainResult:
    """Train the evaluation classifier on its classes (a tenth held out for model selection).

    It knows all ten digits or objects, and of faces the same people as the target.
    """
    data = splits_of(config, task, evaluator=True)
    return _fit(config, data, Path(run_dir), torch.device(device), resume, progress)


@torch.no_grad()
def accuracy(model: nn.Module, data: Images, batch_size: int = 500) -> float:
    """Share of ``data`` (images, labels) that ``model`` labels rightly, in eval mode."""
    device = next(model.parameters()).device
    model.eval()
    images = ImageSet.of(data)
    channels, height, width = images.shape
    batch_size = max(1, min(batch_size, _MOST_VALUES // (channels * height * width)))
    right = 0
    for x, y in images.batches(batch_size):
        right += int((model(x.to(device)).argmax(1) == y.to(device)).sum())
    return right / len(images)


def _fit(
    config: TrainConfig,
    data: Splits,
    run_dir: Path,
    device: torch.device,
    resume: bool,
    progress: bool,
) -> TrainResult:
    train = ImageSet.of(data.train)
    settings = {**asdict(config), "train_images": len(train)}
    if config.pretrained:  # the same weights are the same run, wherever they lie
        settings["pretrained"] = file_sha256(config.pretrained)
    checkpoint = run_dir / "checkpoint.pt"
    torch.manual_seed(config.seed)
    model = build_model(config.arch, data.num_classes, config.defence, config.model_options)
    check_images(config, train)
    batches = EpochBatches(config, train.labels)
    if config.pretrained:
        load_pretrained(model, config.pretrained, config.reinit)
    defence = Defence(config.defence, config.weights, config.taps or taps_of(model))
    # channels_last: the faster layout for convolutions
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plan = Plan(
        data.num_classes, len(train), config.batch_size, config.epochs, bool(config.pretrained)
    )
    defence.prepare(model, plan)
    optimizer = build_optimizer(config, model)
    scheduler = build_scheduler(config, optimizer, len(batches))
    optimizer = defence.optimizer(optimizer)
    state: dict[str, Any] = {"epoch": 0, "best": None, "best_val": -1.0, "history": []}
    state["seconds"] = 0.0
    free = {"epochs"} if config.can_go_on else set()
    fixed = {key: value for key, value in settings.items() if key not in free}
    saved = resume_or_none(checkpoint, fixed, _STATE) if resume else None
    if saved is not None:
        if saved["epoch"] > config.epochs:
            told = (
                f"{checkpoint} is at epoch {saved['epoch']} already, now epochs={config.epochs}; "
                "give another folder, or resume=False to start over"
            )
            raise WeightsFileError("run_dir", checkpoint, told)
        state = saved
        for part, name in ((model, "model"), (optimizer, "optimizer"), (scheduler, "scheduler")):
            part.load_state_dict(saved[name])
        defence.load_state(saved.get("defence", {}))
    steps = max(1, round(config.stop * config.epochs * len(batches)))
    last = min(config.epochs, math.ceil(steps / len(batches)))
    with defence.attached(model) as penalty:
        for epoch in range(state["epoch"] + 1, last + 1):
            started = time.monotonic()
            row = _epoch(
                config,
                epoch,
                model,
                defence,
                penalty,
                optimizer,
                scheduler,
                train,
                batches,
                steps - (epoch - 1) * len(batches) if config.stop < 1 else None,
                progress,
            )
            row |= defence.told()
            row["val_accuracy"] = accuracy(model, data.val)
            state["history"].append({"epoch": epoch, **row})
            if row["val_accuracy"] > state["best_val"]:
                state["best_val"] = row["val_accuracy"]
                state["best"] = {k: v.detach().clone() for k, v in model.state_dict().items()}
            state.update(epoch=epoch, seconds=state["seconds"] + time.monotonic() - started)
            state.update(model=model.state_dict(), optimizer=optimizer.state_dict())
            state.update(scheduler=scheduler.state_dict(), settings=settings)
            state.update(defence=defence.state())
            save_atomic(state, checkpoint)
            _write_log(state["history"], run_dir / "log.csv")
    return _finish(config, data, model, state, run_dir, tuple(defence.told()))


def _finish(
    config: TrainConfig,
    data: Splits,
    model: nn.Module,
    state: dict[str, Any],
    run_dir: Path,
    told: tuple[str, ...],
) -> TrainResult:
    """Test the chosen epoch's weights and write the model file.

    ``told`` are columns of the defence: their last values go into it, as an epsilon is that of all
    steps, whichever epoch was chosen.
    """
    model.load_state_dict(state["best"])
    result = TrainResult(
        model=model.eval(),
        val_accuracy=state["best_val"],
        test_accuracy=accuracy(model, data.test),
        history=state["history"],
        seconds=state["seconds"],
        path=run_dir / "model.pt",
    )
    metrics = {"val_accuracy": result.val_accuracy, "test_accuracy": result.test_accuracy}
    metrics |= {key: state["history"][-1][key] for key in told}
    save_model(
        result.path, model, config.arch, data.num_classes, config.defence, metrics,
        config.model_options, config.weights,
    )  # fmt: skip
    return result


def _epoch(
    config: TrainConfig,
    epoch: int,
    model: nn.Module,
    defence: Defence,
    penalty: Penalty,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    train: ImageSet,
    batches: EpochBatches,
    most: int | None,
    progress: bool,
) -> dict[str, float]:
    """Train on at most ``most`` batches of one epoch; None: on all."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
    torch.manual_seed(config.seed * 100_003 + epoch)  # MID's noise, torchvision's transforms
    augment = training_augmentation(config.augment)
    drawn = (defence.batches(generator) or batches.epoch(generator))[:most]
    loss_of = StepLoss(model, defence, penalty, epoch, config.epochs)
    by_epoch = config.schedule == "multistep"
    sums: dict[str, Tensor] = {}
    counted = 0
    name = config.defence if config.defence != "none" else config.arch
    defence.set_training(model)
    for chosen in tqdm(drawn, f"{name} epoch {epoch}/{config.epochs}", disable=not progress):
        x, y = train.batch(chosen).to(device), train.labels[chosen].to(device)
        if augment is not None and len(x):
            x = augment(x, generator)
        loss, parts = loss_of(x, y, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if not by_epoch:
            scheduler.step()
        if not len(x):  # a batch drawn under DP-SGD; its loss is a mean of nothing
            continue
        counted += 1
        # Sums stay on the device: reading them every step would stall a GPU.
        for key, value in {"loss": loss.detach(), **parts}.items():
            sums[key] = sums[key] + value if key in sums else value
    if by_epoch:
        scheduler.step()
    row = {key: float(value) / counted for key, value in sums.items()}
    if not math.isfinite(row["loss"]):
        raise FloatingPointError(
            f"the training loss is {row['loss']} in epoch {epoch}; lower lr ({config.lr}) or the"
            f" defence's weights ({dict(config.weights)})"
        )
    return row


def taps_of(model: nn.Module) -> tuple[str, ...]:
    """The layers that BiDO watches unless others are named."""
    taps: tuple[str, ...] = tuple(getattr(model, "taps", ()))
    return taps


def _write_log(history: list[dict[str, float]], path: Path) -> None:
    with replacing(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)

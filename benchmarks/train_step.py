# SPDX-License-Identifier: Apache-2.0
"""What BiDO costs in a real training step: ``python -m benchmarks.train_step --measure nhsic --n 64``.

VGG16 with batch normalisation on 64 x 64 images: forward, cross entropy plus the BiDO term, backward,
SGD. The yardstick is the same step without the term; ratios are to it, within the same round. The plain
step is timed twice a round: the ratio of the two is the control, it shows what this machine can resolve.
Needs torchvision.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks import bido_step, rivals
from benchmarks.case import OWN, OpCase
from benchmarks.gate import GateError, Verdict, judge, truth_of
from benchmarks.machine import machine_line
from benchmarks.problem import Problem, images
from benchmarks.registry import STEP_MEASURES, build
from benchmarks.results import Record, default_path, save
from benchmarks.run import text_table
from bido_ext import FeatureTaps
from bido_ext.serving.measure import MIN_ROUNDS, Timing, interleaved, paired_ratio

PLAIN = "plain step"
CONTROL = "plain step again"
#: The five max-pooling layers: 65536, 32768, 16384, 8192, 2048 columns.
TAPS = ("0.6", "0.13", "0.23", "0.33", "0.43")


def vgg16(num_classes: int) -> nn.Module:
    """VGG16-bn for 64 x 64 images with one linear layer on top."""
    from torchvision.models import vgg16_bn

    return nn.Sequential(
        vgg16_bn(weights=None).features, nn.Flatten(), nn.Linear(2048, num_classes)
    )


class TrainStep:
    """One training step, with a BiDO term or without; the weights stay as they are (lr = 0)."""

    def __init__(self, n: int, num_classes: int, device: str) -> None:
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(n)
        self.x = images(n, 3 * 64 * 64, generator).view(n, 3, 64, 64).to(device)
        self.y = torch.randint(0, num_classes, (n,), generator=generator).to(device)
        self.num_classes = num_classes
        self.model = vgg16(num_classes).to(device)
        self.taps = FeatureTaps(self.model, TAPS)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0, momentum=0.9)

    def problem(self) -> Problem:
        """The BiDO problem of the features of the last forward pass, in graph."""
        features = tuple(z.flatten(1) for z in self.taps.features.values())
        return Problem(
            self.x.flatten(1), features, self.y, self.num_classes, lambda_x=0.05, lambda_y=0.5
        )

    def run(self, term: Callable[[Problem], Tensor] | None = None) -> None:
        """Forward, loss, backward, update."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(self.model(self.x), self.y)
        if term is not None:
            loss = loss + term(self.problem()).to(loss.device)
        loss.backward()
        self.optimizer.step()
        self.taps.clear()


def run_train_step(
    measure: str,
    n: int,
    names: Sequence[str],
    threads: int,
    rounds: int,
    device: str = "cpu",
    minimum_rounds: int = MIN_ROUNDS,
    num_classes: int = bido_step.NUM_CLASSES,
) -> Record:
    """Measures the step without the term, with bido_ext's and with the rivals' of ``names``.

    Raises:
        GateError: bido_ext's term misses the float64 truth on the features of the model.
    """
    torch.set_num_threads(threads)
    case = build(bido_step.spec(measure, n))
    step = TrainStep(n, num_classes, device)
    verdicts = _gate(case, step, [OWN, *names])
    calls: dict[str, Callable[[], object]] = {PLAIN: step.run, CONTROL: step.run}
    for name, verdict in verdicts.items():
        if verdict.refusal is None:
            calls[name] = partial(step.run, case.implementations[name])
    taken = interleaved(calls, rounds, device=device, minimum_rounds=minimum_rounds)
    plain = taken[PLAIN].median
    rows = []
    for name, verdict in verdicts.items():
        row = {
            "name": name,
            "value_error": verdict.value_error,
            "gradient_error": verdict.gradient_error,
            "first_call_s": verdict.first_call_s,
            "refusal": verdict.refusal,
        }
        if name in taken:
            time = taken[name]
            row |= {"median_ms": 1e3 * time.median, "q20_ms": 1e3 * time.q20}
            row |= {"q80_ms": 1e3 * time.q80, "times_floor": time.median / plain}
            row["times_own"] = time.median / taken[OWN].median
            row |= _paired(time, taken[PLAIN])
        rows.append(row)
    return {
        "spec": {**case.spec.to_json(), "name": f"train_step_{measure}"},
        "dtype": "float32",
        "threads": threads,
        "rounds": rounds,
        "floor": {"what": PLAIN, "ms": 1e3 * plain},
        "control": {"what": CONTROL, **_paired(taken[CONTROL], taken[PLAIN])},
        "rows": rows,
        "machine": machine_line(device),
    }


def _paired(time: Timing, plain: Timing) -> dict[str, object]:
    ratio, low, high = paired_ratio(time, plain)
    return {"paired_ratio": ratio, "paired_ratio_95": [low, high]}


def _gate(case: OpCase, step: TrainStep, names: Sequence[str]) -> dict[str, Verdict]:
    with torch.no_grad():
        step.model(step.x)
    problem = step.problem().to(torch.float32)
    truth = truth_of(case, problem)
    verdicts = {name: judge(name, case, problem, truth) for name in names}
    if verdicts[OWN].refusal:
        raise GateError(f"{case.spec.name} on VGG16's features: {OWN}: {verdicts[OWN].refusal}.")
    return verdicts


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=__doc__)
    parser.add_argument("--measure", choices=STEP_MEASURES, default="nhsic")
    parser.add_argument("--n", nargs="+", type=int, default=[64], help="batch sizes (default 64)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS)
    parser.add_argument("--rivals", nargs="*", choices=rivals.NAMES[:-1], default=["published"])
    parser.add_argument("--json", type=Path, help="file (default benchmarks/results/<device>/...)")
    options = parser.parse_args(arguments)
    for n in options.n:
        try:
            record = run_train_step(
                options.measure, n, options.rivals, options.threads, options.rounds, options.device
            )
        except GateError as error:
            print(f"refused: {error}", file=sys.stderr)
            return 1
        print(text_table(record), flush=True)
        control = {"name": CONTROL, **record["control"]}
        for row in [*record["rows"], control]:
            if "paired_ratio" in row:
                low, high = row["paired_ratio_95"]
                print(
                    f"{row['name']}: {row['paired_ratio']:.3f} x the plain step of the same round, median; "
                    f"95 % interval {low:.3f} .. {high:.3f}"
                )
        print(flush=True)
        name = f"train_step_{options.measure}"
        save(options.json or default_path(name, options.device), name, [record])
    return 0


if __name__ == "__main__":
    sys.exit(main())

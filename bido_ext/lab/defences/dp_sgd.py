# SPDX-License-Identifier: Apache-2.0
"""DP-SGD: the gradient of each image is clipped and the sum gets noise (Abadi et al., CCS 2016).

Opacus does it (``pip install "bido-ext[dp]"``).  Each step takes every image with the same
probability, as the accountant supposes, so batches vary in size.  Batch norm, where the images of a
batch meet, becomes group norm, as Opacus' validator does.  ``epsilon`` of the log and of the model
file is that of Opacus' RDP accountant for ``delta`` after all steps so far.

The defaults are those of Opacus' MNIST example.  The comparison in the code of MID clips at 1 and
takes noise 0.01 (github.com/Jiachen-T-Wang/mi-defense): no epsilon that means anything.  A positive
``epsilon`` asks for the noise that spends it in the planned epochs, in the place of ``noise``.

The noise comes from the seed of the run, so that a run repeats and resumes; whoever knows the seed
can take it off again.  The validation images that choose the epoch are not protected.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .rule import DefenceSpec, Penalty, Plan, Rule, no_penalty


class DpSgd(Rule):
    """Opacus' per-sample gradients, optimiser and accountant in this package's training."""

    def __init__(self, weights: dict[str, float], taps: tuple[str, ...]) -> None:
        super().__init__(weights, taps)
        if not 0 < weights["delta"] < 1:
            raise ValueError(f"delta must lie between 0 and 1, got {weights['delta']:g}")
        if not weights["clip"] > 0:
            raise ValueError(f"clip must be positive, got {weights['clip']:g}")
        if not (weights["noise"] > 0 or weights["epsilon"] > 0):
            raise ValueError("noise must be positive, or epsilon, which sets the noise")

    @property
    def follows_epochs(self) -> bool:
        """See ``Rule``: an epsilon is spent over a known number of steps."""
        return self.weights["epsilon"] > 0

    def prepare(self, model: nn.Module, plan: Plan) -> None:
        """See ``Rule``."""
        opacus = _opacus()
        for module in model.modules():
            if getattr(module, "inplace", False):  # would change what the hooks keep
                module.inplace = False  # type: ignore[assignment]
        try:
            opacus.validators.ModuleValidator.validate(model, strict=True)
        except opacus.validators.errors.UnsupportedModuleError as error:
            raise ValueError(f"the defence 'dp-sgd' cannot train this model: {error}") from error
        self.plan = plan
        self.rate = plan.batch_size / plan.images
        self.steps = plan.images // plan.batch_size
        self.noise = self.weights["noise"]
        if self.weights["epsilon"] > 0:
            self.noise = opacus.accountants.utils.get_noise_multiplier(
                target_epsilon=self.weights["epsilon"],
                target_delta=self.weights["delta"],
                sample_rate=self.rate,
                steps=self.steps * plan.epochs,
                accountant="rdp",
            )
        self.accountant = opacus.accountants.RDPAccountant()

    def optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """See ``Rule``."""
        private = _opacus().optimizers.DPOptimizer(
            optimizer,
            noise_multiplier=self.noise,
            max_grad_norm=self.weights["clip"],
            expected_batch_size=self.plan.batch_size,
        )
        private.attach_step_hook(
            lambda _: self.accountant.step(noise_multiplier=self.noise, sample_rate=self.rate)
        )
        wrapped: torch.optim.Optimizer = private
        return wrapped

    def batches(self, generator: torch.Generator) -> Sequence[Tensor]:
        """See ``Rule``: every image enters every step with the same probability."""
        return [
            (torch.rand(self.plan.images, generator=generator) < self.rate).nonzero().flatten()
            for _ in range(self.steps)
        ]

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[Penalty]:
        """See ``Rule``."""
        sampled = _opacus().GradSampleModule(model)
        try:
            with warnings.catch_warnings():  # true of every input of a network, and harmless
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                yield no_penalty
        finally:
            sampled.remove_hooks()
            sampled.del_grad_sample()

    def told(self) -> dict[str, float]:
        """See ``Rule``."""
        epsilon = float(self.accountant.get_epsilon(delta=self.weights["delta"]))
        return {"epsilon": epsilon, "noise": float(self.noise)}

    def state(self) -> dict[str, Any]:
        """See ``Rule``."""
        return {"spent": [list(step) for step in self.accountant.history]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See ``Rule``."""
        self.accountant.history = [(float(n), float(q), int(k)) for n, q, k in state["spent"]]


def _opacus() -> Any:
    try:
        import opacus
        import opacus.accountants.utils
        import opacus.optimizers
        import opacus.validators.errors
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the defence 'dp-sgd' needs Opacus, which is not installed; run: "
            'pip install "bido-ext[dp]"',
            name="opacus",
        ) from error
    return opacus


SPECS = (
    DefenceSpec(
        "dp-sgd",
        {"noise": 1.0, "clip": 1.0, "delta": 1e-5, "epsilon": 0.0},
        "DP-SGD: clipped gradients and noise, by Opacus (Abadi et al., CCS 2016)",
        "DP-SGD",
        DpSgd,
        needs_per_image=True,
        draws_batches=True,
        arch_options=lambda weights: {"norm": "group"},
    ),
)

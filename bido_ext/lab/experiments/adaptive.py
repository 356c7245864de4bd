# SPDX-License-Identifier: Apache-2.0
"""The surrogate of an adaptive attacker as a stage: trained once, reused, resumable."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bido_ext.lab.attacks import find_attack
from bido_ext.lab.attacks.adaptive import AdaptiveConfig, StandIn, check_white_box, stand_in
from bido_ext.lab.attacks.ranks import ALONE, Ranks
from bido_ext.lab.attacks.surrogates import FILE
from bido_ext.lab.experiments.attacking import PublicSet
from bido_ext.lab.experiments.lock import locked
from bido_ext.lab.experiments.pipeline import stage_config
from bido_ext.lab.experiments.stage import RunOptions, Stage
from bido_ext.lab.models.checkpoint import weights_digest

FOLDER = "surrogate"


@dataclass(frozen=True)
class Adapted:
    """What an adaptive attack runs on in place of the target.

    Attributes:
        network: images -> logits.
        settings: what it is, for the attack's own record.
        note: one line on whether it was reused.
    """

    network: StandIn
    settings: dict[str, Any]
    note: str


def adapt(
    attack: str,
    config: AdaptiveConfig,
    target: nn.Module,
    public: PublicSet,
    out: Path,
    options: RunOptions,
    ranks: Ranks = ALONE,
) -> Adapted:
    """Train the surrogate of ``target`` on the attacker's images; a finished one is loaded.

    Args:
        attack: Key of ``ATTACKS``, a white-box one.
        config: Of the surrogate.
        target: The model under attack.
        public: The attacker's images.
        out: Folder of the surrogate.
        options: How to run.
        ranks: Processes that want it: one trains, the others wait.

    Raises:
        ValueError: If the attack is no white-box one, or ``out`` holds another configuration, see
            ``Stage``.
    """
    check_white_box(find_attack(attack))
    digest = weights_digest(target)
    told = {key: value for key, value in asdict(config).items() if key != "kind"}
    stage = Stage(
        out, stage_config("surrogate", data=public.digest, training=told, target=digest), FILE
    )

    def make() -> StandIn:
        if not ranks.leads:  # what the leader has finished
            return stand_in(
                config, target, public.images, out, digest=digest, progress=False,
                device=options.device,
            )  # fmt: skip
        with locked(out, options.patience):
            done = stage.outcome(options)
            made = stand_in(
                config, target, public.images, out, digest=digest,
                progress=options.progress and done is None, device=options.device,
            )  # fmt: skip
            stage.finish({})
        return made

    network = ranks.leader_first(make)
    return Adapted(network, {**asdict(config), "weights": weights_digest(network)}, stage.note)

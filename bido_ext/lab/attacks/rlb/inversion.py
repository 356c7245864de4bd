# SPDX-License-Identifier: Apache-2.0
"""RLB-MI's search: episodes of one action, rewarded by the target's probabilities alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bido_ext.lab.attacks.black_box import BlackBox
from bido_ext.lab.attacks.gan import WGAN
from bido_ext.lab.attacks.generators import as_latent_generator, without_gradients
from bido_ext.lab.attacks.inversion import How, Inversion
from bido_ext.lab.attacks.result import Reconstructions
from bido_ext.lab.attacks.rows import Rows
from bido_ext.lab.attacks.search import BlindSearch
from bido_ext.lab.attacks.settings import SearchConfig
from bido_ext.lab.attacks.spec import AttackSpec
from bido_ext.lab.training.checked import Count, Number, Positive, Share, checked

from .agents import Agents

if TYPE_CHECKING:
    from typing_extensions import Unpack

LEAST = 1e-7  # below it a probability counts as this


@checked
class RlbConfig(SearchConfig):
    """How an agent learns.

    In an episode it is shown a random latent and answers with an action in (-1, 1); the image asked
    about is made of mix * latent + (1 - mix) * action.

    The attributes of ``SearchConfig`` come besides.

    Attributes:
        steps: episodes; published: 40,000.
        lr: of Adam, for actor, critics and temperature.
        hidden: width of the agent's networks.
        memory_batch: episodes that an update learns from; it waits until there are more.
        mix: see above; above 0 an episode asks about the action's own image too.
        budget: queries of the whole attack, shared evenly among its searches; 0: no limit.
        restarts: independent agents a class.
    """

    steps: Count = 40_000
    lr: Positive = 5e-4
    hidden: Count = 256
    memory_batch: Count = 256
    mix: Share = 0.0
    budget: Number = 0
    restarts: Count = 1
    batch_size: Count = 8
    checkpoint_every: Count = 2000


def invert_rlb(
    config: RlbConfig,
    target: BlackBox,
    generator: nn.Module,
    classes: Sequence[int],
    **how: Unpack[How],
) -> Reconstructions:
    """Attack ``classes`` of ``target`` by its probabilities.

    Args:
        target: see ``BlackBox``; a network is refused.
        generator: a ``LatentGenerator``, or GMI's.
        classes: labels to reconstruct.
        how: see ``How``.

    Returns:
        Of each agent the image of its episodes that the target was surest of, with ``queries``.

    Raises:
        TypeError: ``target`` is a network.
        PermissionError: it answers labels alone.
        ValueError: bad classes, a budget below two queries a search, or ``run_dir`` holds another
            run.
        FloatingPointError: an answer is NaN.
    """
    source: Any = as_latent_generator(generator)
    work = Inversion(
        "rlb", "RLB-MI", config, target, classes, source.shape, source, how=how,
        access="black box",
    )  # fmt: skip
    share = work.share()
    images = without_gradients(lambda z: source.synthesis(source.mapping(z)), work.device)

    def begin(rows: Rows) -> _Rlb:
        return _Rlb(config, target, images, source.z_dim, rows, share, work.device)

    found = work.search(begin)
    return work.collect(found["latents"], images, queries=found["queries"])


def reward(state: Tensor, action: Tensor, labels: Tensor) -> Tensor:
    """2 log p(state) + 2 log p(action) + 8 log of the margin of state, published; each (rows,).

    Args:
        state, action: probabilities (rows, classes) of the two images.
        labels: the wanted classes (rows,).
    """
    wanted, acted = (p.gather(1, labels[:, None]).squeeze(1) for p in (state, action))
    others = state.scatter(1, labels[:, None], float("-inf")).amax(1)
    margin = (wanted - others).clamp_min(LEAST).log()
    return 2 * wanted.clamp_min(LEAST).log() + 2 * acted.clamp_min(LEAST).log() + 8 * margin


class _Rlb(BlindSearch):
    def __init__(
        self, config: RlbConfig, target: BlackBox, images: Callable[[Tensor], Tensor], dim: int,
        rows: Rows, share: int, device: torch.device,
    ) -> None:  # fmt: skip
        self.config, self.target, self.images, self.rows = config, target, images, rows
        self.asks = 2 if config.mix else 1
        # One query is kept for the last look.
        self.episodes = min(config.steps, (share - 1) // self.asks) if share else config.steps
        self.labels, self.dim, self.device = torch.tensor(rows.labels), dim, device
        self.agents = Agents(rows, dim, config.hidden, config.lr, device)
        column = torch.zeros(len(rows), 1, dtype=torch.float64)
        self.params = {
            "latents": rows.starts(dim),
            "confidence": column - 1,
            "queries": column.clone(),
        }
        self.memory = torch.zeros(self.episodes, len(rows), 2 * dim + 1, device=device)
        self.known = 0  # episodes in the memory

    def state(self) -> dict[str, Any]:
        """See ``Search``."""
        memory = self.memory[: self.known].clone()
        return {**super().state(), "agents": self.agents.state(), "memory": memory}

    def load(self, state: Mapping[str, Any]) -> None:
        """See ``Search``."""
        super().load(state)
        self.agents.load(state["agents"])
        self.known = len(state["memory"])
        self.memory[: self.known] = state["memory"]

    def advance(self, step: int) -> Tensor:
        """One episode of every row, and what is learnt from it; returns minus the rewards."""
        if step > self.episodes:
            return -self.params["confidence"].squeeze(1)
        generators = self.rows.generators("rlb", step)
        shown, eps = self._normal(generators, 1), self._normal(generators, 1)
        with torch.no_grad():
            action = self.agents.act(shown, eps)[0]
        latents = torch.lerp(action, shown, self.config.mix).squeeze(1).cpu()
        told = self._ask(latents)
        acted = self._ask(action.squeeze(1).cpu()) if self.asks == 2 else told
        rewards = reward(told, acted, self.labels)
        self._keep(latents, told)
        if bool(rewards.isfinite().all()):  # else the search stops here
            episode = [shown.squeeze(1), action.squeeze(1), rewards[:, None].to(action)]
            self.memory[self.known] = torch.cat(episode, 1)
            self.known += 1
            self._learn(generators)
        return -rewards

    def _normal(self, generators: list[torch.Generator], count: int) -> Tensor:
        drawn = [torch.randn(count, self.dim, generator=random) for random in generators]
        return torch.stack(drawn).to(self.device)

    def _ask(self, latents: Tensor) -> Tensor:
        self.params["queries"] += 1
        return self.target.probabilities(self.images(latents)).float()

    def _keep(self, latents: Tensor, told: Tensor) -> None:
        sure = told.gather(1, self.labels[:, None]).double()
        better = sure >= self.params["confidence"]
        self.params["latents"] = torch.where(better, latents, self.params["latents"])
        self.params["confidence"] = torch.where(better, sure, self.params["confidence"])

    def _learn(self, generators: list[torch.Generator]) -> None:
        count, known = self.config.memory_batch, self.known
        if known <= count:
            return
        chosen = torch.stack([torch.randperm(known, generator=g)[:count] for g in generators])
        rows = torch.arange(len(self.rows))[:, None]
        batch = self.memory[chosen.to(self.device), rows.to(self.device)]  # [rows, count, ...]
        states, actions, rewards = batch.split([self.dim, self.dim, 1], 2)
        self.agents.learn(states, actions, rewards.squeeze(2), self._normal(generators, count))


RLB = AttackSpec(
    "rlb",
    "RLB-MI: an agent in the latents, rewarded by the probabilities of queries "
    "(Han et al., CVPR 2023)",
    "black box",
    RlbConfig,
    invert_rlb,
    WGAN,
    any_generator=True,
    presets={
        "quick": RlbConfig(steps=1500, restarts=4, hidden=64, memory_batch=64, batch_size=20),
        "smoke": RlbConfig(steps=3, hidden=8, memory_batch=2),
    },
)

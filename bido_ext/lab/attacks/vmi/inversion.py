# SPDX-License-Identifier: Apache-2.0
"""VMI's search: flows of many classes trained side by side on the variational objective."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap
from typing_extensions import Unpack

from bido_ext.lab.attacks.gan import WGAN
from bido_ext.lab.attacks.generators import as_latent_generator
from bido_ext.lab.attacks.inversion import How, Inversion
from bido_ext.lab.attacks.result import Reconstructions, sample_major
from bido_ext.lab.attacks.rows import Rows, stream_seed
from bido_ext.lab.attacks.search import Search
from bido_ext.lab.attacks.settings import SearchConfig
from bido_ext.lab.attacks.spec import AttackSpec
from bido_ext.lab.training.checked import Count, Positive, Share, Weight, checked

from .flow import CouplingFlow, kl_to_standard_normal


@checked
class VmiConfig(SearchConfig):
    """How the flows are trained.

    Loss of a row: mean over ``draws`` of cross-entropy of the target + kl_weight * KL(q || N(0, I)),
    the KL averaged over the generator's layers if each has a flow.

    The attributes of ``SearchConfig`` come besides.

    Attributes:
        steps: of SGD (published: 31 epochs of 10 iterations). The last flow is kept; the published
            code evaluates every epoch and keeps the best, which is a selection.
        lr, momentum: of SGD on the flow's parameters.
        kl_weight: weight of the KL divergence.
        draws: samples of each flow per step.
        samples: images drawn from each found flow; all are kept (published: 100).
        couplings, hidden: size of the flow.
        layered: a flow for each layer of the generator (StyleGAN's ``num_ws``), as published with
            StyleGAN; otherwise one for all.
        restarts: independent flows per class.
        batch_size: flows trained side by side, each with ``draws`` images.
    """

    steps: Count = 310
    lr: Positive = 1e-4
    momentum: Share = 0.9
    kl_weight: Weight = 1e-3
    draws: Count = 32
    samples: Count = 100
    couplings: Count = 10
    hidden: Count = 100
    layered: bool = False
    restarts: Count = 1
    batch_size: Count = 4
    checkpoint_every: Count = 10


def invert_vmi(
    config: VmiConfig,
    target: nn.Module,
    generator: nn.Module,
    classes: Sequence[int],
    **how: Unpack[How],
) -> Reconstructions:
    """Attack ``classes`` of ``target`` with any generator.

    Args:
        target: images of the generator's shape -> logits; it is put in eval mode.
        generator: see ``LatentGenerator``; GMI's generator is searched in its noise.
        classes: labels of the target to reconstruct.
        how: see ``How``.

    Returns:
        ``restarts * samples`` images of each class, the samples of a restart in a row.

    Raises:
        ValueError: bad classes, a target that does not take such images, ``layered`` without
            layers, or ``run_dir`` holds another run.
        TypeError: a generator without the methods it needs.
        FloatingPointError: a loss is no longer finite.
    """
    space: Any = as_latent_generator(generator)
    if config.layered and not hasattr(space, "num_ws"):
        raise ValueError(
            f"layered needs a generator with num_ws layers, {type(generator).__name__} has none"
        )
    work = Inversion("vmi", "VMI", config, target, classes, space.shape, space, how=how)
    attack = _Attack(config, target, space)
    found = work.search(lambda rows: _Vmi(attack, rows))
    return work.collect(
        sample_major(attack.draw(found, work.rows), config.restarts),
        space.synthesis,
        batch_size=config.batch_size * config.draws,
        draws=config.samples,
    )


class _Attack:
    """What all batches share: the flow's form and the generator."""

    def __init__(self, config: VmiConfig, target: nn.Module, space: Any) -> None:
        self.config, self.target, self.space = config, target, space
        self.layers = space.num_ws if config.layered else 1
        self.weight = next(space.parameters())  # the flows take its device and its precision
        # Permutations are shared; a restart's initial weights come with its parameters.
        self.flow = self.initial(0)

    def initial(self, restart: int) -> CouplingFlow:
        """The untrained flow of one restart, with the permutations of all."""
        config = self.config
        seeds = (stream_seed(config.seed, "vmi flow", number) for number in (0, restart))
        made, own = (
            CouplingFlow(self.space.z_dim, config.couplings, config.hidden, seed) for seed in seeds
        )
        with torch.no_grad():
            for kept, new in zip(made.parameters(), own.parameters(), strict=True):
                kept.copy_(new)
        return made.to(self.weight)

    def flows(self, params: dict[str, Tensor], eps: Tensor) -> tuple[Tensor, Tensor]:
        """z and log-determinants of eps (rows, layers, draws, z_dim), each row by its own flows."""

        def one(own: dict[str, Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
            return functional_call(self.flow, (own, dict(self.flow.named_buffers())), (noise,))

        flat = {name: value.flatten(0, 1) for name, value in params.items()}
        z, log_det = vmap(one)(flat, eps.flatten(0, 1))
        return z.view_as(eps), log_det.view(eps.shape[:3])

    def latents(self, z: Tensor) -> Tensor:
        """z (rows, layers, draws, z_dim) -> the generator's latents (rows * draws, ...)."""
        rows, layers, draws, dim = z.shape
        by_image = z.transpose(1, 2).reshape(rows * draws * layers, dim)
        mapped = self.space.mapping(by_image)
        return mapped.unflatten(0, (rows * draws, layers)) if layers > 1 else mapped

    @torch.no_grad()
    def draw(self, params: dict[str, Tensor], rows: Rows) -> Tensor:
        """``samples`` latents of every row, on the CPU: (rows, samples, ...)."""
        parts, size, count = [], self.config.batch_size, self.config.samples
        for first in range(0, len(rows), size):
            batch = rows.cut(first, first + size)
            own = {n: v[first : first + size].to(self.weight.device) for n, v in params.items()}
            eps = batch.noise("vmi sample", 0, self.layers, count, self.space.z_dim)
            latents = self.latents(self.flows(own, eps.to(self.weight))[0])
            parts.append(latents.unflatten(0, (len(batch), count)).cpu())
        return torch.cat(parts)


class _Vmi(Search):
    def __init__(self, attack: _Attack, rows: Rows) -> None:
        self.attack, self.rows = attack, rows
        config = attack.config
        self.labels = rows.wanted(attack.weight.device).repeat_interleave(config.draws)
        made = {restart: attack.initial(restart) for restart in dict.fromkeys(rows.restarts)}
        states = [dict(made[restart].named_parameters()) for restart in rows.restarts]
        self.params = {
            name: torch.stack([state[name].detach() for state in states])[:, None]
            .repeat(1, attack.layers, *[1] * states[0][name].dim())
            .requires_grad_()
            for name in states[0]
        }  # each [rows, layers, ...]
        self.optimizer = torch.optim.SGD(list(self.params.values()), config.lr, config.momentum)

    def losses(self, step: int) -> Tensor:
        attack, config = self.attack, self.attack.config
        shape = (attack.layers, config.draws, attack.space.z_dim)
        eps = self.rows.noise("vmi", step, *shape).to(attack.weight)
        z, log_det = attack.flows(self.params, eps)
        images = attack.space.synthesis(attack.latents(z))
        identity = F.cross_entropy(attack.target(images), self.labels, reduction="none")
        kl = kl_to_standard_normal(eps, z, log_det).mean((1, 2))
        return identity.view(len(self.rows), -1).mean(1) + config.kl_weight * kl


VMI = AttackSpec(
    "vmi",
    "variational model inversion: a normalising flow over latents for each class "
    "(Wang et al., NeurIPS 2021)",
    "white box",
    VmiConfig,
    invert_vmi,
    WGAN,
    any_generator=True,
    file_only={"layered": False},
    presets={
        "quick": VmiConfig(steps=300, lr=1e-2, samples=20, couplings=4, batch_size=8),
        "smoke": VmiConfig(steps=3, draws=4, samples=3, couplings=2, hidden=8),
    },
)

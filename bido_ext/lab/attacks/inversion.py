# SPDX-License-Identifier: Apache-2.0
"""The frame of every attack: networks in place, target checked, rows searched, images collected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from bido_ext.lab.models.checkpoint import weights_digest

from .black_box import BlackBox
from .ranks import ALONE, Ranks
from .result import Reconstructions, collect
from .rows import Rows
from .search import Keep, Search, run_search
from .spec import Access
from .target import check_classes, check_target, place


class How(TypedDict, total=False):
    """How an attack is run, without influence on what comes out.

    Attributes:
        run_dir: where ``latents.pt`` is kept to continue a killed run; ``None``, the default, keeps
            nothing.
        resume: continue an attack of the same configuration, target and generator found in
            ``run_dir`` (default).
        progress: show a progress bar (default).
        device: where to compute; default: the CPU.
        ranks: processes that share the searches; default: this one alone.
    """

    run_dir: Path | str | None
    resume: bool
    progress: bool
    device: torch.device | str
    ranks: Ranks


class Inversion:
    """One attack on some classes of a target.

    Args:
        name: key of ``ATTACKS``.
        title: in progress bars and errors.
        config: a ``SearchConfig``.
        target: images -> logits, put in eval mode; a ``BlackBox`` for an attack without its weights.
        classes: labels of the target to reconstruct.
        shape: (channels, height, width) of the images that the target is given.
        generator: what is searched; its weights belong to the attack as those of the target do.
        others: more networks to put in place.
        restarts: searches of a class; default: ``config.restarts``.
        access: what the attack may know.
        inputs: what the outcome depends on beside all this, plain values.
        how: see ``How``.

    Attributes:
        rows: the searches.
        device: where to compute.

    Raises:
        TypeError: a network where the access is that of a black box, or the other way round.
        ValueError: no classes, a label the target does not have, or a target that does not take such
            images.
    """

    def __init__(
        self,
        name: str,
        title: str,
        config: Any,
        target: Any,
        classes: Sequence[int],
        shape: Sequence[int],
        generator: nn.Module,
        *others: nn.Module,
        how: How,
        restarts: int | None = None,
        access: Access = "white box",
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        self.title, self.config, self.target, self.how = title, config, target, how
        self.device, self.classes = torch.device(how.get("device", "cpu")), list(classes)
        restarts = config.restarts if restarts is None else restarts
        place(generator, *others, device=self.device)
        if access == "white box":
            if isinstance(target, BlackBox):
                raise TypeError("target must be a network: a white-box attack needs its gradients")
            place(target, device=self.device)
            self.outputs = check_target(target, self.classes, shape, self.device)
        else:
            if not isinstance(target, BlackBox):
                raise TypeError(f"target must be a BlackBox: a {access} attack has no network")
            self.outputs = target.outputs(tuple(shape))
            check_classes(self.classes, self.outputs)
        self.rows = Rows.of(self.classes, restarts, self.outputs, config.seed)
        settings = {"attack": name, **asdict(config), "classes": self.classes, **(inputs or {})}
        run_dir = how.get("run_dir")
        if run_dir is not None:
            digest = target.digest if access != "white box" else weights_digest(target)
            settings.update(target=digest, generator=weights_digest(generator))
        self.keep = Keep(run_dir, settings, config.checkpoint_every, how.get("resume", True))

    def share(self) -> int:
        """Queries of each search, of ``config.budget``; 0: no limit.

        Raises:
            ValueError: a budget below two queries a search.
        """
        budget, searches = self.config.budget, len(self.rows)
        if budget and budget < 2 * searches:
            raise ValueError(
                f"budget must be at least 2 for each of {searches} searches, got {budget}"
            )
        return budget // searches

    def search(self, begin: Callable[[Rows], Search]) -> dict[str, Tensor]:
        """The final ``params`` of all rows, on the CPU.

        Args:
            begin: makes the search of some rows at its start.

        Raises:
            ValueError: ``run_dir`` holds another run.
            FloatingPointError: a loss or a latent is no longer finite.
        """
        return run_search(
            self.title, begin, self.rows, self.config.steps, self.config.batch_size, self.keep,
            self.how.get("progress", True), self.how.get("ranks", ALONE),
        )  # fmt: skip

    def collect(
        self,
        latents: Tensor,
        synthesise: Callable[..., Tensor],
        *,
        draws: int = 1,
        conditional: bool = False,
        batch_size: int | None = None,
        queries: Tensor | None = None,
    ) -> Reconstructions:
        """The images of ``latents`` and what the target says of them.

        Args:
            latents: (restarts * classes, ...), class after class within a restart.
            synthesise: latents -> images; of the wanted labels too if ``conditional``.
            draws: images of one search.
            batch_size: default: that of the search.
            queries: of each search, of a black box; the last look at each image comes on top.
        """
        found = collect(
            latents,
            synthesise,
            self._answered if isinstance(self.target, BlackBox) else self.target,
            self.classes,
            batch_size=batch_size or self.config.batch_size,
            device=self.device,
            draws=draws,
            conditional=conditional,
        )
        if queries is not None:
            found.queries = int(queries.sum()) + len(latents)
        return found

    def _answered(self, images: Tensor) -> Tensor:
        """Logits that say what the black box answers: of a label alone, 1 for it and 0 for others."""
        box: BlackBox = self.target
        if not box.labels_only:
            return box.probabilities(images).log().clamp_min(-1e9).to(self.device)
        hit = torch.arange(self.outputs) == box.labels(images)[:, None]
        return torch.where(hit, 0.0, -1e9).to(self.device)

# SPDX-License-Identifier: Apache-2.0
"""Gradient search over many rows in batches, resumable: what every attack shares.

The loss of a step is the sum over its rows, each row's loss its own, so a row's path does not
depend on what shares its batch: exactly in real numbers, and up to rounding in floating point,
because matrix products of another size may add in another order.  Continued from a checkpoint with
the same batches the path is the same bit for bit.  Several ranks take a batch each, in step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bido_ext.lab.models.checkpoint import resume_or_none
from bido_ext.lab.models.safe_save import save_atomic

from .ranks import ALONE, Ranks
from .rows import Rows

FILE = "latents.pt"
_STATE = {"done": list, "step": int}  # what a search continues from


class Search(ABC):
    """One batch of rows under search.

    Attributes:
        rows: the rows.
        params: what is searched, leaf tensors with one entry for each row first.
        optimizer: over ``params``, acting on each element by itself.
    """

    rows: Rows
    params: dict[str, Tensor]
    optimizer: torch.optim.Optimizer

    @abstractmethod
    def losses(self, step: int) -> Tensor:
        """The loss of each row (rows,) at iteration ``step``, from 1."""

    def constrain(self) -> None:  # noqa: B027  # most searches need none
        """Called without gradients after every update, to clamp ``params`` in place."""

    def advance(self, step: int) -> Tensor:
        """One iteration; returns the losses before the update."""
        losses = self.losses(step)
        leaves = list(self.params.values())
        # Gradients for what is searched alone: those of the networks' weights are not wanted.
        gradients = torch.autograd.grad(losses.sum(), leaves)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient
        self.optimizer.step()
        with torch.no_grad():
            self.constrain()
        return losses.detach()

    def state(self) -> dict[str, Any]:
        """All that is needed to continue."""
        return {
            "params": {name: leaf.detach() for name, leaf in self.params.items()},
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        with torch.no_grad():
            for name, leaf in self.params.items():
                leaf.copy_(state["params"][name])
        self.optimizer.load_state_dict(state["optimizer"])


class BlindSearch(Search):
    """A search without gradients: ``params`` are plain state, and ``advance`` is its own."""

    def losses(self, step: int) -> Tensor:
        """Unused: there is nothing to descend."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """See ``Search``."""
        return {"params": {name: value.clone() for name, value in self.params.items()}}

    def load(self, state: Mapping[str, Any]) -> None:
        """See ``Search``."""
        for name, value in self.params.items():
            value.copy_(state["params"][name])


@dataclass(frozen=True)
class Keep:
    """Where a search keeps its checkpoint.

    Attributes:
        run_dir: folder of ``latents.pt``; None keeps nothing.
        settings: what the outcome depends on; a checkpoint made with other settings is refused.
        every: iterations between checkpoints.
        resume: continue from a checkpoint that is there.
    """

    run_dir: Path | str | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    every: int = 100
    resume: bool = True


def run_search(
    attack: str,
    begin: Callable[[Rows], Search],
    rows: Rows,
    steps: int,
    batch_size: int,
    keep: Keep,
    progress: bool,
    ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """Search all rows, ``batch_size`` at a time on each rank, fewer where that leaves no rank idle.

    Args:
        attack: its name, for the progress bar and for errors.
        begin: makes the search of some rows at its start.
        steps: iterations of each row.
        ranks: processes that share the rows. A search that another number of them began goes on
            after its last finished batches.

    Returns:
        On every rank the final ``params`` of all rows, on the CPU.

    Raises:
        ValueError: the checkpoint was made with other settings.
        FloatingPointError: a loss or a latent is no longer finite.
    """
    path = None if keep.run_dir is None else Path(keep.run_dir) / FILE
    saved = None
    if path is not None and keep.resume:
        saved = ranks.by_leader(lambda: resume_or_none(path, keep.settings, _STATE))
    done: list[dict[str, Tensor]] = [] if saved is None else saved["done"]
    states: list[dict[str, Any]] = []
    first_step = 0
    if saved is not None and saved["step"]:
        states = saved["state"] if isinstance(saved["state"], list) else [saved["state"]]
        first_step = saved["step"] if len(states) == ranks.size else 0
    size = min(batch_size, -(-len(rows) // ranks.size))
    first = sum(len(next(iter(part.values()))) for part in done)
    rounds = -(-(len(rows) - first) // (size * ranks.size))
    show = progress and ranks.leads
    bar = tqdm(
        None, f"{attack} steps", rounds * steps + len(done) * steps,
        initial=len(done) * steps + first_step, disable=not show,
    )  # fmt: skip
    with bar:
        while first < len(rows):
            mine = rows.cut(
                min(first + ranks.rank * size, len(rows)),
                min(first + (ranks.rank + 1) * size, len(rows)),
            )
            search = begin(mine) if len(mine) else None
            if first_step and search is not None:
                search.load(states[ranks.rank])
            for step in range(first_step + 1, steps + 1):
                if search is not None:
                    _check_finite(attack, step, search, search.advance(step))
                bar.update()
                if path is not None and step % keep.every == 0 and step < steps:
                    told = ranks.exchange(None if search is None else _on_cpu(search.state()))
                    if ranks.leads:
                        _save(path, keep, done, step, told[0] if ranks.size == 1 else told)
            first_step = 0
            found = None
            if search is not None:
                found = {name: leaf.detach().cpu() for name, leaf in search.params.items()}
            done += [part for part in ranks.exchange(found) if part is not None]
            first = min(first + size * ranks.size, len(rows))
            if path is not None and ranks.leads:
                _save(path, keep, done, 0, None)
    return {name: torch.cat([part[name] for part in done]) for name in done[0]}


def _save(path: Path, keep: Keep, done: list[dict[str, Tensor]], step: int, state: Any) -> None:
    content = {"settings": dict(keep.settings), "done": done, "step": step, "state": state}
    save_atomic(content, path)


def _on_cpu(state: Any) -> Any:
    """Nested dicts and lists with their tensors on the CPU."""
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, Mapping):
        return {key: _on_cpu(value) for key, value in state.items()}
    return [_on_cpu(value) for value in state] if isinstance(state, list) else state


def _check_finite(attack: str, step: int, search: Search, losses: Tensor) -> None:
    finite = losses.isfinite()
    for leaf in search.params.values():
        finite &= leaf.detach().isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise FloatingPointError(
            f"{attack}: identity {search.rows.labels[row]}, restart {search.rows.restarts[row]}: "
            f"the loss is {float(losses[row])} at iteration {step}, and it or a latent is not "
            "finite; lower lr"
        )

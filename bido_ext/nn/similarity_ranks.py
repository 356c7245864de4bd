# SPDX-License-Identifier: Apache-2.0
"""The sums of a comparison over all ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bido_ext.nn.similarity_sums import SimilaritySums

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class RankState:
    """What a rank knows: sums on the CPU (None without batches), what they are of, and how many."""

    sums: SimilaritySums | None
    layers: tuple[str, ...]
    other_layers: tuple[str, ...]
    settings: str
    batches: int
    samples: int


def state_of_ranks(own: RankState, process_group: ProcessGroup | None) -> RankState:
    """The sums of all ranks, added in rank order, the same on each; ``own`` without torch.distributed.

    One collective, of a few kilobytes: a rank without batches does not know the layers, and is told here.

    Raises:
        ValueError: Ranks compare other layers, or in another way; on all ranks.
    """
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized():
        return own
    states: list[RankState] = [own] * dist.get_world_size(process_group)
    dist.all_gather_object(states, own, group=process_group)
    met = [state for state in states if state.sums is not None]
    if not met:
        return own
    first, total = met[0], met[0].sums
    assert total is not None
    for state in met[1:]:
        if (state.layers, state.other_layers) != (first.layers, first.other_layers):
            raise ValueError(
                "LayerSimilarity: the ranks compare other layers: "
                f"{_words(first)} on one, {_words(state)} on another."
            )
        assert state.sums is not None
        total = total.plus(state.sums)
    if len({state.settings for state in states}) > 1:
        raise ValueError(
            "LayerSimilarity: the ranks have other settings: "
            f"{'; '.join(sorted({state.settings for state in states}))}."
        )
    return RankState(
        total, first.layers, first.other_layers, first.settings,
        sum(state.batches for state in states), sum(state.samples for state in states),
    )  # fmt: skip


def _words(state: RankState) -> str:
    return f"{', '.join(state.layers)} with {', '.join(state.other_layers)}"

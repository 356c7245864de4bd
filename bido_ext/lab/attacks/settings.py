# SPDX-License-Identifier: Apache-2.0
"""What the settings of every search have."""

from bido_ext.lab.training.checked import Count, checked


@checked
class SearchConfig:
    """Settings of any search.

    Attributes:
        steps: of the search of each row.
        seed: starts every random stream.
        batch_size: rows searched side by side.
        checkpoint_every: steps between checkpoints.

    A subclass may have ``restarts``, independent searches of a class, and ``samples``, images of
    one search.
    """

    steps: Count
    seed: int = 0
    batch_size: Count = 64
    checkpoint_every: Count = 100

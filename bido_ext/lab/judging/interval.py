# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals of attack accuracy."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

CLUSTERED_CI_METHOD = (
    "Wilson score interval, 95%, over all reconstructions, as many trials as the spread between "
    "searches allows (several images are drawn of each)"
)
CI_METHOD = "Wilson score interval, 95%, over all reconstructions (classes x restarts)"
BOOTSTRAP_DRAWS = 10_000
IDENTITY_CI_METHOD = (
    f"percentile bootstrap over identities, 95%, {BOOTSTRAP_DRAWS:,} draws: what attacking other "
    "identities of the same model would give"
)
_Z95 = 1.959963984540054


def wilson_interval(successes: float, trials: float) -> tuple[float, float]:
    """95% Wilson score interval (E. B. Wilson, JASA 1927) of ``successes / trials``.

    It counts every reconstruction as one trial.  With fixed classes and independent restarts it is
    conservative: differences between the classes widen it.  It holds for the one trained model and
    generator at hand and says nothing of what another training run would give.

    Raises:
        ValueError: If ``trials < 1`` or ``successes`` is outside ``0..trials``.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(
            f"successes must lie in 0..trials with trials >= 1, got {successes} of {trials}"
        )
    p, z2 = successes / trials, _Z95**2
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 / (1 + z2 / trials) * sqrt(p * (1 - p) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def clustered_interval(by_search: Tensor, draws: int) -> tuple[float, float]:
    """Wilson's interval where ``draws`` reconstructions come of each search.

    Draws of one Gaussian or flow succeed or fail together: 100 of them are not 100 trials.  The
    effective number of trials is p (1 - p) over the variance of the mean of the searches (Kish's
    design effect; Korn and Graubard, Survey Methodology 1998), at least the number of searches and
    at most that of reconstructions.

    Args:
        by_search: Share of each search's reconstructions that succeeded, (searches,).
        draws: Reconstructions of a search.
    """
    searches, p = len(by_search), float(by_search.double().mean())
    trials = float(searches)
    if searches > 1 and (spread := float(by_search.double().var()) / searches) > 0:
        trials = min(max(p * (1 - p) / spread, searches), searches * draws)
    return wilson_interval(p * trials, trials)


def identity_interval(hits: Tensor, seed: int = 0) -> tuple[float, float] | None:
    """95% percentile bootstrap of the mean that resamples whole identities.

    The reconstructions of an identity succeed or fail together, so with many identities and few
    restarts the interval over single reconstructions is too narrow for a statement about
    identities in general.

    Args:
        hits: (restarts, classes), 1 where a reconstruction succeeded and 0 where not.
        seed: Of the resampling.

    Returns:
        The interval, or None with fewer than two identities.
    """
    by_identity = hits.double().mean(dim=0)
    count = len(by_identity)
    if count < 2:
        return None
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (BOOTSTRAP_DRAWS, count), generator=generator)
    means = by_identity[drawn].mean(dim=1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high

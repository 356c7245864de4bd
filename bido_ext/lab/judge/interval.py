# SPDX-License-Identifier: Apache-2.0
"""Confidence interval of a proportion."""

from __future__ import annotations

from math import sqrt

CI_METHOD = "Wilson score interval, 95%, over all reconstructions (classes x restarts)"
_Z95 = 1.959963984540054


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
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

# SPDX-License-Identifier: Apache-2.0
"""The rivals, one file each, written from the formulas; and who can compute what."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from benchmarks.problem import Problem
from benchmarks.rivals import compiled, hand_backward, keops, published, shared_eager

#: In the order of the tables.
NAMES = ("published", "shared_eager", "compiled", "hand_backward", "keops")
#: Rivals that bring a thread pool of their own: measured in another process.
FOREIGN = frozenset({"keops"})

Implementation = Callable[[Problem], Tensor]


def measure_rivals(measure: str, labels: bool) -> dict[str, Implementation]:
    """Rivals for d(X, Z), or with labels for a BiDO step."""
    modules = {
        "published": published,
        "shared_eager": shared_eager,
        "compiled": compiled,
        "hand_backward": hand_backward,
    }
    rivals: dict[str, Implementation] = {
        name: partial(module.loss, measure)
        for name, module in modules.items()
        if measure in module.MEASURES
    }
    if measure in keops.MEASURES and not labels and keops.importable():
        rivals["keops"] = partial(keops.loss, measure)
    return rivals


def gram_rivals() -> dict[str, Implementation]:
    """Rivals for the Gaussian Gram matrix."""
    return {
        "published": published.gram,
        "shared_eager": shared_eager.gram,
        "compiled": compiled.gram,
        "hand_backward": hand_backward.gram,
    }


def stack_rivals() -> dict[str, Implementation]:
    """Rivals for K - 1 of several variables."""
    return {
        "shared_eager": shared_eager.gram_stack,
        "compiled": compiled.gram_stack,
        "hand_backward": hand_backward.gram_stack,
    }


def center_rivals() -> dict[str, Implementation]:
    """Rivals for double centering."""
    return {
        "published": published.double_center,
        "shared_eager": shared_eager.double_center,
        "compiled": compiled.double_center,
    }

# SPDX-License-Identifier: Apache-2.0
"""Defences: what each changes in the training of a classifier, or in what it answers.

One file is one defence, and one line of ``FILES`` in ``registry.py``.
"""

from .registry import (
    DEFENCES,
    LABELS,
    Defence,
    arch_options_of,
    description_of,
    draws_batches,
    follows_epochs,
    label_of,
    parts_of,
    resolve_weights,
)
from .rule import DefenceSpec, Extra, Penalty, Plan, Rule, Step

__all__ = [
    "DEFENCES",
    "LABELS",
    "Defence",
    "DefenceSpec",
    "Extra",
    "Penalty",
    "Plan",
    "Rule",
    "Step",
    "arch_options_of",
    "description_of",
    "draws_batches",
    "follows_epochs",
    "label_of",
    "parts_of",
    "resolve_weights",
]

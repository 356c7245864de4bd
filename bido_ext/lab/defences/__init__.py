# SPDX-License-Identifier: Apache-2.0
"""Defences: what each changes in the training of a classifier, or in what it answers.

One file is one defence; ``registry.py`` lists them.
"""

from .registry import (
    DEFENCES,
    LABELS,
    Defence,
    arch_options_of,
    description_of,
    follows_epochs,
    label_of,
    parts_of,
    resolve_weights,
)
from .rule import DefenceSpec, Penalty, Rule

__all__ = [
    "DEFENCES",
    "LABELS",
    "Defence",
    "DefenceSpec",
    "Penalty",
    "Rule",
    "arch_options_of",
    "description_of",
    "follows_epochs",
    "label_of",
    "parts_of",
    "resolve_weights",
]

# SPDX-License-Identifier: Apache-2.0
"""Defences: what each adds to the training of a classifier."""

from .registry import DEFENCES, LABELS, Defence, DefenceSpec, Penalty, resolve_weights

__all__ = ["DEFENCES", "LABELS", "Defence", "DefenceSpec", "Penalty", "resolve_weights"]

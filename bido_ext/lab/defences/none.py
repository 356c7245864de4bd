# SPDX-License-Identifier: Apache-2.0
"""No defence: what the others are compared with."""

from .rule import DefenceSpec

SPECS = (DefenceSpec("none", {}, "cross-entropy alone", "no defence"),)

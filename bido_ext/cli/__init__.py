# SPDX-License-Identifier: Apache-2.0
"""The command ``bido``."""

MISSING_LAB = 'bido: {name} is not installed; run: pip install "bido-ext[lab]"'

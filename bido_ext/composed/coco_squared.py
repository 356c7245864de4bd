# SPDX-License-Identifier: Apache-2.0
"""coco with the spectral norm, its top singular vectors by repeated squaring: n^3 work, few calls."""

from __future__ import annotations

from bido_ext.composed._top_singular import squared
from bido_ext.composed.coco import coco_backward, forward_with

coco = forward_with(squared)
__all__ = ["coco", "coco_backward"]

# SPDX-License-Identifier: Apache-2.0
"""hsic as composed, with products of split operands on tensor cores."""

from __future__ import annotations

from functools import partial

from bido_ext.composed import hsic as composed
from bido_ext.composed._split_products import split_product

hsic = partial(composed.hsic, multiply=split_product)
hsic_backward = partial(composed.hsic_backward, multiply=split_product)

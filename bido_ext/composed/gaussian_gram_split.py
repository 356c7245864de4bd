# SPDX-License-Identifier: Apache-2.0
"""gaussian_gram as composed, with products of split operands on tensor cores."""

from __future__ import annotations

from functools import partial

from bido_ext.composed import gaussian_gram as composed
from bido_ext.composed._split_products import split_product

gaussian_gram = partial(composed.gaussian_gram, multiply=split_product)
gaussian_gram_backward = partial(composed.gaussian_gram_backward, multiply=split_product)

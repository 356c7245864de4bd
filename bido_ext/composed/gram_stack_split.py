# SPDX-License-Identifier: Apache-2.0
"""gram_stack as composed, with products of split operands on tensor cores."""

from __future__ import annotations

from functools import partial

from bido_ext.composed import gram_stack as composed
from bido_ext.composed._split_products import split_product

gram_stack = partial(composed.gram_stack, multiply=split_product)
gram_stack_backward = partial(composed.gram_stack_backward, multiply=split_product)

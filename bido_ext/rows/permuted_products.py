# SPDX-License-Identifier: Apache-2.0
"""Who serves permuted_products and its forms for factors and for labels."""

from __future__ import annotations

from bido_ext.serving.row import Implementation, Row

POSITION = 8
ROW = Row(
    "permuted_products",
    ("permuted_products", "permuted_factor_products", "permuted_class_sums"),
    (Implementation("cpu"),),
    features="rows",
)

# SPDX-License-Identifier: Apache-2.0
"""Who serves distance_products."""

from __future__ import annotations

from bido_ext.serving.row import Implementation, Row

POSITION = 9
ROW = Row("distance_products", ("distance_products",), (Implementation("cpu"),), features="x")

# SPDX-License-Identifier: Apache-2.0
"""cka has no functions of its own."""

from __future__ import annotations

from bido_ext.serving.row import Row

POSITION = 7
ROW = Row("cka", composition="composition of hsic")

# SPDX-License-Identifier: Apache-2.0
"""What is known of each op beyond its contract, one file per op (bido_ext.serving.row).

Every module here is loaded: a new op is a new file.
"""

from __future__ import annotations

import importlib
import pkgutil

from bido_ext.serving.row import add_row


def load_rows() -> None:
    """Registers ROW of every module, by ``POSITION`` where it has one."""
    modules = [
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
        if not module.name.startswith("_")
    ]
    for module in sorted(modules, key=lambda m: getattr(m, "POSITION", 100)):
        add_row(module.ROW)

# SPDX-License-Identifier: Apache-2.0
"""Import direction: cli -> lab -> nn -> composed -> ops -> rows -> serving -> reference, never back.

What is composed of ops is loaded by its name, in bido_ext/serving/implementations.py.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import bido_ext

PACKAGE = Path(bido_ext.__file__).parent
ORDER = ["reference", "serving", "rows", "ops", "composed", "nn", "lab", "cli"]


def imported_layers(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in names if name.startswith("bido_ext.")]
    return {p[1] for p in parts if p[1] in ORDER}


@pytest.mark.parametrize("layer", ORDER)
def test_layer_imports_only_what_lies_below(layer: str) -> None:
    files = list((PACKAGE / layer).rglob("*.py"))
    assert files
    above = set(ORDER[ORDER.index(layer) + 1 :])
    for path in files:
        assert not imported_layers(path) & above, f"{path} imports from a layer above {layer}"

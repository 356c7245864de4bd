# SPDX-License-Identifier: Apache-2.0
"""``python tests/triton/property_run.py COUNT``: the property test through the interpreted Triton kernels.

A process of its own: BIDO_EXT_BACKEND is read at import.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

os.environ.update(BIDO_EXT_BACKEND="triton", TRITON_INTERPRET="1")
TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

#: The interpreter takes as long as there are blocks.
MOST_ROWS = 40


def main(count: int) -> None:
    """Prints the worst ratio of error to budget of each measure; fails on the first one above 1."""
    spec = importlib.util.spec_from_file_location("cases", TESTS / "ops" / "test_property.py")
    importlib.import_module("triton.runtime.interpreter")
    importlib.import_module("quick_interpreter").quicken()
    assert spec is not None
    assert spec.loader is not None
    test = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(test)
    test._run(count, MOST_ROWS, test.cases.EVERY_KERNEL)


if __name__ == "__main__":
    main(int(sys.argv[1]))

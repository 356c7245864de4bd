# SPDX-License-Identifier: Apache-2.0
"""Whether Triton's interpreter runs here."""

from __future__ import annotations

import importlib

import pytest
from quick_interpreter import quicken


def skip_where_the_interpreter_is_broken() -> None:
    """Up to 3.6, Triton's interpreter turns arrays of one element into numbers, which numpy refuses by now."""
    triton, numpy = pytest.importorskip("triton"), importlib.import_module("numpy")
    old = tuple(map(int, triton.__version__.split(".")[:2])) <= (3, 6)
    if old and tuple(map(int, numpy.__version__.split(".")[:2])) >= (2, 4):
        pytest.skip(
            f"Triton {triton.__version__}'s interpreter does not run with numpy {numpy.__version__}"
        )
    quicken()

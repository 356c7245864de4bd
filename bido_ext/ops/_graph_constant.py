# SPDX-License-Identifier: Apache-2.0
"""Marks a function whose result torch.compile may keep as a constant of the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def graph_constant(function: F) -> F:
    """As ``torch.compiler.assume_constant_result``, which imports all of torch._dynamo: a second at import.

    tests/test_start_up.py holds the mark against that of the PyTorch at hand.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function

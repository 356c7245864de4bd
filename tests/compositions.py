# SPDX-License-Identifier: Apache-2.0
"""Serves every op on the CPU by its default, as where no kernel was built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bido_ext.serving import on_cpu
from bido_ext.serving.row import Function, default_of


def serve_compositions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the end of the test."""

    def function_of(name: str, args: Sequence[Any], failed: bool) -> Function:
        return default_of(name)

    monkeypatch.setattr(on_cpu, "function_of", function_of)

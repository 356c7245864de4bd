# SPDX-License-Identifier: Apache-2.0
"""Seeds every test, skips gpu tests without a device, and fails on memory an op forgot to write."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    # The Triton kernels run in Triton's interpreter; triton must learn so before anything imports it.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    torch.manual_seed(0)
    # Uninitialised memory becomes NaN, so that an element no kernel wrote shows up.
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))

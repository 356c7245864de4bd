# SPDX-License-Identifier: Apache-2.0
"""Seeds every test, skips gpu tests without a device, and fails on memory an op forgot to write."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from quick_interpreter import quicken

if not torch.cuda.is_available():
    # The Triton kernels run in Triton's interpreter; triton must learn so before anything imports it.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    torch.manual_seed(0)
    quicken()
    # Uninitialised memory becomes NaN, so that an element no kernel wrote shows up.
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    try:
        return (yield)
    except Exception as error:
        if " " in torch.__file__ and "cannot find -ltorch" in str(error):
            pytest.skip("this PyTorch compiles nothing where its path has a space")
        raise


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For tiny networks on a busy machine: more threads wait for each other only."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_finish() -> None:
    # The modules and the tests stay for the whole run: the garbage collector need not walk them each time.
    gc.collect()
    gc.freeze()


ALLOWED_SKIPS = Path(__file__).parent / "allowed_skips.txt"
_unexpected: list[str] = []


def unexpected(reason: str) -> bool:
    """Whether a skip is not on the list: a test that is skipped because something is missing tests nothing."""
    lines = (line.partition("#")[0].strip() for line in ALLOWED_SKIPS.read_text().splitlines())
    return not any(re.search(pattern, reason) for pattern in lines if pattern)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note_skip(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note_skip(report)


def _note_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if unexpected(reason):
            _unexpected.append(f"{report.nodeid}: {reason}")


def _strict(config: pytest.Config) -> bool:
    """CI installs all that tests need, so there nothing may be missing; only the process that reports counts."""
    return os.environ.get("BIDO_EXPECT_NO_SKIPS") == "1" and not hasattr(config, "workerinput")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _unexpected and _strict(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if _unexpected and _strict(config):
        terminalreporter.section("skips that are not in tests/allowed_skips.txt", red=True)
        for line in sorted(set(_unexpected)):
            terminalreporter.line(line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))

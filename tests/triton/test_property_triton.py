# SPDX-License-Identifier: Apache-2.0
"""Random inputs through the interpreted Triton kernels: within the budget, or refused with a reason on the list."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from interpreter import skip_where_the_interpreter_is_broken
from preloaded import run_python

SCRIPT = Path(__file__).with_name("property_run.py")


@pytest.mark.parametrize("count", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_right_or_refused(count: int) -> None:
    skip_where_the_interpreter_is_broken()
    done = run_python(
        f"import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')", str(count),
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert f"{count} cases" in done.stdout
    print(done.stdout)

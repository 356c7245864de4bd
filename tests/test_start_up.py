# SPDX-License-Identifier: Apache-2.0
"""What importing the package and asking the command for help cost: modules are counted, not seconds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import bido_ext
from bido_ext.ops._graph_constant import graph_constant

ADDED = """
import sys, torch
before = set(sys.modules)
import bido_ext
added = sorted(name for name in set(sys.modules) - before if not name.startswith("bido_ext"))
print(len(added), *added)
"""


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "OMP_WAIT_POLICY")}
    return subprocess.run(
        [sys.executable, *arguments],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_import_adds_no_foreign_module_to_pytorch() -> None:
    done = python("-c", ADDED)
    assert done.returncode == 0, done.stderr
    count, *names = done.stdout.split()
    heavy = {"torch._dynamo", "torch.distributed.device_mesh", "sympy", "triton", "torch._inductor"}
    assert not heavy & set(names)
    assert int(count) <= 10, names  # 946 with torch._dynamo


def test_ops_exist_once_pytorch_is_there_or_a_name_was_used() -> None:
    told = python("-c", "import torch, bido_ext; print(torch.ops.bido_ext.hsic)")
    assert told.returncode == 0, told.stderr
    told = python(
        "-c",
        "import sys, bido_ext as bx; print('torch' in sys.modules); bx.hsic; import torch\n"
        "print(torch.ops.bido_ext.hsic, bx.ops, bx.__version__)",
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("False")


def test_every_public_name_has_a_home() -> None:
    assert {*bido_ext._HOME, "__version__"} == set(bido_ext.__all__)
    assert all(hasattr(bido_ext, name) for name in bido_ext.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    told = python("-c", "import bido_ext; bido_ext.hsik")
    assert "AttributeError: module 'bido_ext' has no attribute 'hsik'" in told.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["compare", "--help"], ["list", "models"]]
)
def test_command_line_loads_no_pytorch_to_tell_something(arguments: list[str]) -> None:
    pytest.importorskip("typer")
    code = (
        "import sys; from bido_ext.cli.main import main; sys.argv = ['bido', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\n"
        "assert not code, code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    done = python("-c", code, *arguments)
    assert done.returncode == 0, done.stderr


def test_command_line_lets_idle_threads_rest_unless_told_otherwise() -> None:
    code = "import os; from bido_ext.cli.main import rest_between_loops as r; r(); print(os.environ.get('OMP_WAIT_POLICY'))"
    assert python("-c", code).stdout.strip() == "passive"
    assert python("-c", code, OMP_WAIT_POLICY="active").stdout.strip() == "active"
    assert python("-c", code, GOMP_SPINCOUNT="1000").stdout.strip() == "None"


def test_table_ends_quietly_where_its_reader_has_gone() -> None:
    done = subprocess.run(
        f"'{sys.executable}' -u -m bido_ext | head -n 1; echo ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, check=False,
    )  # fmt: skip
    first, *_, status = done.stdout.splitlines()
    assert first.startswith("bido_ext ")
    assert status in ("0", "141"), done.stdout
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_the_mark_of_a_graph_constant_is_that_of_this_pytorch() -> None:
    def one() -> int:
        return 1

    def other() -> int:
        return 1

    torch.compiler.assume_constant_result(one)
    graph_constant(other)
    assert vars(one) == vars(other)

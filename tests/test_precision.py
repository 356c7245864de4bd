# SPDX-License-Identifier: Apache-2.0
"""Whether TF32 is allowed, however the user said it."""

from __future__ import annotations

import json

import pytest
from preloaded import run_python

SETTINGS = {
    "pass": False,
    "torch.set_float32_matmul_precision('high')": True,
    "torch.set_float32_matmul_precision('highest')": False,
    "torch.backends.cuda.matmul.allow_tf32 = True": True,
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'": True,
    "torch.backends.cuda.matmul.fp32_precision = 'ieee'": False,
    "torch.backends.fp32_precision = 'tf32'": True,
}
#: Each setting in a child of its own: PyTorch refuses to be told both ways in one process.
PROGRAM = """
import json, os, sys, torch
from bido_ext._precision import tf32_allowed
for setting in json.loads(sys.argv[1]):
    sys.stdout.flush()
    if os.fork() == 0:
        exec(setting)
        print(json.dumps([setting, tf32_allowed()]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def understood() -> dict[str, bool]:
    done = run_python(PROGRAM, json.dumps(list(SETTINGS)))
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("setting", SETTINGS)
def test_either_way_of_pytorch_is_understood(understood: dict[str, bool], setting: str) -> None:
    assert understood[setting] == SETTINGS[setting]

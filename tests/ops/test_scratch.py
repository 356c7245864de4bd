# SPDX-License-Identifier: Apache-2.0
"""Working memory that is kept from call to call (csrc/cpu/scratch.h)."""

from __future__ import annotations

import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from oracle import features
from torch import Tensor

import bido_ext as bx


def step(n: int, d: int) -> list[Tensor]:
    x, z = features(n, d, torch.float32), features(n, d + 1, torch.float32, seed=1)
    z.requires_grad_()
    value = bx.hsic(x, z) + bx.nhsic(x, z)
    return [value.detach(), *torch.autograd.grad(value, z)]


def test_calls_side_by_side_do_not_share_it() -> None:
    """Blocks of 4 MiB and more, of the same sizes, in four threads that wait for nobody."""
    sizes = [(800, 300), (800, 301), (795, 1500), (1000, 2000)] * 2
    alone = [step(n, d) for n, d in sizes]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda size: step(*size), sizes))
    for results, wants in zip(together, alone, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(results, wants, strict=True))


RESIDENT = """
import torch, bido_ext as bx

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

z = torch.rand(64, 8, requires_grad=True)
bx.hsic(torch.rand(64, 8), z).backward()
before = resident()
for n in range(2000, 2100, 10):  # other block sizes each time: 16 MB a matrix
    x, z = torch.rand(n, 64), torch.rand(n, 64, requires_grad=True)
    bx.hsic(x, z, workspace_bytes=30_000_000).backward()
    bx.hsic(x, z).backward()
print((resident() - before) / 2**20)
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
def test_little_stays() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 64 + 32, "MiB more than before; 64 may be kept"

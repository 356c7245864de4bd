# SPDX-License-Identifier: Apache-2.0
"""Free memory as containers and shells limit it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bido_ext.ops.host_memory import free_host_memory

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path: Path) -> tuple[Path, Path]:
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable: 67108864 kB\n")
    cgroups.mkdir()
    return proc, cgroups


def test_the_machine(machine: tuple[Path, Path]) -> None:
    assert free_host_memory(*machine) == 64 * GIB


@pytest.mark.parametrize("where", ["", "system.slice/docker-1.scope"])
def test_control_groups_of_version_2(machine: tuple[Path, Path], where: str) -> None:
    proc, cgroups = machine
    (proc / "self" / "cgroup").write_text(f"0::/{where}\n")
    group = cgroups / where
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text(f"{4 * GIB}\n")
    (group / "memory.current").write_text(f"{GIB}\n")
    assert free_host_memory(proc, cgroups) == 3 * GIB
    (group / "memory.max").write_text("max\n")
    assert free_host_memory(proc, cgroups) == 64 * GIB


def test_a_group_above_limits_too(machine: tuple[Path, Path]) -> None:
    proc, cgroups = machine
    (proc / "self" / "cgroup").write_text("0::/a/b\n")
    (cgroups / "a" / "b").mkdir(parents=True)
    (cgroups / "a" / "memory.max").write_text(f"{2 * GIB}\n")
    (cgroups / "a" / "memory.current").write_text("0\n")
    assert free_host_memory(proc, cgroups) == 2 * GIB


def test_control_groups_of_version_1(machine: tuple[Path, Path]) -> None:
    proc, cgroups = machine
    (proc / "self" / "cgroup").write_text("5:cpu:/\n4:memory:/docker/1\n")
    group = cgroups / "memory" / "docker" / "1"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(f"{8 * GIB}\n")
    (group / "memory.usage_in_bytes").write_text(f"{5 * GIB}\n")
    assert free_host_memory(proc, cgroups) == 3 * GIB
    (group / "memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")  # its way to say none
    assert free_host_memory(proc, cgroups) == 64 * GIB


def test_the_limit_of_the_address_space_makes_hsic_stream() -> None:
    code = """
import resource, torch, bido_ext as bx
bx.hsic
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), resource.RLIM_INFINITY))
plan = bx.plan(20000, [64, 64])
assert plan.regime == "streaming", plan
assert plan.workspace_bytes <= 1 << 29, plan
"""
    subprocess.run([sys.executable, "-c", code], check=True)

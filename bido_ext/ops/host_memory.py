# SPDX-License-Identifier: Apache-2.0
"""Free memory of this process: what the machine has, less what a container or the shell allows."""

from __future__ import annotations

from pathlib import Path

GIB = 1 << 30
#: Where the limit and the use of a control group are, of version 2 and of version 1.
_V2 = ("memory.max", "memory.current")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def free_host_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Free bytes: of the machine, of the control groups of this process, and of its address space."""
    known = [
        free
        for free in (_of_machine(proc), *_of_groups(proc, cgroups), _of_process(proc))
        if free >= 0
    ]
    return min(known) if known else 8 * GIB  # unknown system: assume a small one


def _of_machine(proc: Path) -> int:
    for line in _lines(proc / "meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return -1


def _of_groups(proc: Path, cgroups: Path) -> list[int]:
    """Of each group from that of the process up to the root; a container sees its own as the root."""
    free = []
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        named = "memory" in controllers.split(",")
        if controllers and not named:
            continue
        root, names = (cgroups / "memory", _V1) if named else (cgroups, _V2)
        group = Path(path.lstrip("/"))
        for part in (group, *group.parents):
            limit, used = (_number(root / part / name) for name in names)
            if limit >= 0 and used >= 0:
                free.append(max(0, limit - used))
    return free


def _of_process(proc: Path) -> int:
    try:
        import resource
    except ImportError:  # not a Unix
        return -1
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return -1
    fields = " ".join(_lines(proc / "self" / "statm")).split()
    return max(0, limit - int(fields[0]) * resource.getpagesize()) if fields else -1


def _number(path: Path) -> int:
    """-1 where there is none, or no limit."""
    text = " ".join(_lines(path))
    return int(text) if text.isdigit() and int(text) < 1 << 60 else -1


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []

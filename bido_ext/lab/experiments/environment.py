# SPDX-License-Identifier: Apache-2.0
"""Facts about the machine and the packages, for reports and ``bido doctor``."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import torch

# Distribution names, as users install them.
CORE_PACKAGES = ("bido-ext", "torch", "numpy", "triton")
LAB_PACKAGES = (
    *("torchvision", "matplotlib", "tqdm", "platformdirs", "jinja2", "typer", "filelock"),
)


def machine_facts() -> dict[str, str]:
    """System, processor, cores, threads, memory and accelerators; no host or user names."""
    facts = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(_usable_cores()),
        "PyTorch threads": str(torch.get_num_threads()),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        facts["memory"] = f"{memory / 2**30:.0f} GiB"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    facts["GPUs"] = ", ".join(gpus) or "none"
    return facts


def package_versions() -> dict[str, str]:
    """Version of Python and of every package of the core and of the extra ``lab``."""
    versions = {"python": platform.python_version()}
    for name in (*CORE_PACKAGES, *LAB_PACKAGES):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"

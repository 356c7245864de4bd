# SPDX-License-Identifier: Apache-2.0
"""The machine line: where and with what a number was measured."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import torch

import bido_ext

ROOT = Path(__file__).resolve().parents[1]


def machine_line(device: str) -> dict[str, object]:
    """Processor, cores, versions, commit, command and time; JSON-able."""
    line: dict[str, object] = {
        "device": device_name(device),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "bido_ext": bido_ext.__version__,
        "commit": commit(),
        "command": command(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }
    if torch.device(device).type == "cuda":
        line["cuda"] = torch.version.cuda
    return line


def device_name(device: str) -> str:
    """Name of the GPU, or of the CPU with its number of cores."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {os.cpu_count()} cores"


def device_slug(device: str) -> str:
    """The device's name as a folder name."""
    return re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")


def cpu_name() -> str:
    """Model name of the processor, with the widest vector extension as Linux states them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    model = re.search(r"model name\s*:\s*(.+)", text)
    name = model.group(1).strip() if model else platform.machine()
    flags = re.search(r"flags\s*:\s*(.+)", text)
    widest = "AVX-512" if flags and "avx512f" in flags.group(1).split() else ""
    return f"{name} {widest}".strip()


def commit() -> str:
    """Short hash of the checkout, with "+" where tracked files differ from it; "" without git."""
    hash_ = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return hash_ + ("+" if hash_ and changed else "")


def command() -> str:
    """How this process was started, without the folders of this machine."""
    program = Path(sys.argv[0])
    try:
        parts = program.resolve().relative_to(ROOT / "benchmarks").with_suffix("").parts
    except ValueError:
        module = program.name
    else:
        module = "-m " + ".".join(("benchmarks", *parts)).removesuffix(".__main__")
    arguments = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]
    return " ".join(["python", module, *arguments])


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()

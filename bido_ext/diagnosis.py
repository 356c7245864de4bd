# SPDX-License-Identifier: Apache-2.0
"""What is wrong with this installation, and what to do: the last line of ``bido doctor``."""

from __future__ import annotations

import ast
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from bido_ext._counted import counted
from bido_ext.serving import libraries

#: Seconds that the look into torch.compile's cache may take, newest files first.
CACHE_SECONDS = 1.0


class Finding(NamedTuple):
    """One thing that is wrong, and what to do about it."""

    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.problem}. {self.remedy}"


def findings() -> list[Finding]:
    """What is wrong, the worst first; [] if nothing is."""
    return [one for one in (_library(), _forced(), _gpu(), _threads(), _cache()) if one]


def verdict() -> str:
    """One line: "all good", or the first thing to fix and how many wait behind it."""
    found = findings()
    if not found:
        return "all good"
    behind = f" ({len(found) - 1} more after that)" if found[1:] else ""
    return f"to fix: {found[0]}{behind}"


def _library() -> Finding | None:
    problem = libraries.problems["cpu"]
    if problem is None or libraries.FORCED:
        return None
    if not (libraries.PACKAGE / "bido_cpu.so").exists() and (hidden := libraries.hidden_package()):
        return Finding(
            f"the sources in {libraries.PACKAGE} hide the installed package in {hidden}",
            "Start Python in another folder",
        )
    return Finding(
        f"the CPU kernels do not serve: {problem}",
        "Build them again for this PyTorch and this Python: pip install --force-reinstall --no-deps bido-ext "
        "(in a checkout: pip install -e . --no-build-isolation)",
    )


def _forced() -> Finding | None:
    if libraries.FORCED not in ("reference", "triton"):
        return None
    return Finding(
        f"BIDO_EXT_BACKEND={libraries.FORCED} keeps the compiled kernels from serving",
        "Unset it, unless you compare implementations",
    )


def _gpu() -> Finding | None:
    if not torch.cuda.is_available() or libraries.FORCED or libraries.kernels_on("cuda"):
        return None
    return Finding(
        f"the GPU is served by PyTorch's own products alone: {libraries.problems['cuda']}, and Triton is "
        "not installed",
        "pip install triton, or build again where nvcc is",
    )


def _threads() -> Finding | None:
    if not hasattr(os, "sched_getaffinity"):
        return None
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    if threads <= cores:
        return None
    return Finding(
        f"PyTorch uses {threads} threads on {counted(cores, 'usable core')}, which wait for each other",
        f"Set OMP_NUM_THREADS={cores}, or call torch.set_num_threads({cores})",
    )


def _cache() -> Finding | None:
    """A torch.compile cache of an older build: its graphs call ops as they were."""
    stale = sum(1 for _ in stale_graphs(cache_folder()))
    if not stale:
        return None
    return Finding(
        f"torch.compile keeps {stale} graphs of another version of bido_ext, which fail when they are used",
        f"Delete {cache_folder()}",
    )


def cache_folder() -> Path:
    """Where torch.compile keeps its graphs; as in torch._inductor, which takes a second to import."""
    if folder := os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        return Path(folder)
    try:
        import getpass

        user = getpass.getuser()
    except (ImportError, KeyError, OSError):  # a user without a name, as in some containers
        return Path(tempfile.gettempdir()) / "torchinductor_unknown"
    safe = "".join("_" if letter in '\\/:*?"<>|' else letter for letter in user)
    return Path(tempfile.gettempdir()) / f"torchinductor_{safe}"


def stale_graphs(folder: Path, seconds: float = CACHE_SECONDS) -> Iterator[Path]:
    """Files under ``folder`` that call an op of bido_ext with other arguments than it has now."""
    end = time.monotonic() + seconds
    # Two letters of a hash, and the file: nothing else of the cache is looked at.
    files = [file for file in folder.glob("??/*.py") if file.is_file()]
    for file in sorted(files, key=lambda file: -file.stat().st_mtime):
        if time.monotonic() > end:
            return
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if "torch.ops.bido_ext." in text and _calls_what_is_not(text):
            yield file


def _calls_what_is_not(text: str) -> bool:
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name.startswith("torch.ops.bido_ext.") and not _fits(name, len(node.args)):
                return True
    return False


def _fits(name: str, given: int) -> bool:
    op = getattr(torch.ops.bido_ext, name.split(".")[3], None)
    if op is None:
        return False
    schema = op.default._schema.arguments
    return sum(not a.has_default_value() for a in schema) <= given <= len(schema)

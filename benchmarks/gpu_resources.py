# SPDX-License-Identifier: Apache-2.0
"""What every compiled GPU kernel takes of a card: python -m benchmarks.gpu_resources [bido_cuda.so]

Reads the machine code of the library that is installed, for each architecture in it, with cuobjdump (CUDA
toolkit; CUOBJDUMP names another one). No GPU is needed. The table in docs/gpu_resources.md is this output.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

LIBRARY = Path(__file__).resolve().parents[1] / "bido_ext" / "bido_cuda.so"


class Usage(NamedTuple):
    """Of one kernel on one architecture; stack and local memory hold what does not fit into registers."""

    registers: int
    stack: int
    shared: int
    local: int


def usage_of(report: str) -> dict[str, dict[str, Usage]]:
    """kernel (mangled) -> architecture -> Usage, from ``cuobjdump --dump-resource-usage``."""
    found: dict[str, dict[str, Usage]] = {}
    architecture = kernel = ""
    for line in report.splitlines():
        if match := re.match(r"arch = (\w+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function (\S+):", line):
            kernel = match[1]
        elif "REG:" in line and kernel:
            values = dict(re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", line))
            usage = Usage(*(int(values.get(key, 0)) for key in ("REG", "STACK", "SHARED", "LOCAL")))
            found.setdefault(kernel, {})[architecture] = usage
            kernel = ""
    return found


def short(name: str) -> str:
    """kernel<Tile<...>> of a demangled signature, without namespaces, arguments and casts."""
    name = re.sub(r"\(anonymous namespace\)::|\bbido::|\bstable::", "", name)
    name = re.sub(r"\((?:int|bool|unsigned)\)", "", name)
    name = re.sub(r"^void ", "", name)
    depth = 0
    for position, letter in enumerate(name):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and not depth:
            name = name[:position]
            break
    return name.replace(" ", "")


def demangled(names: list[str]) -> dict[str, str]:
    """By c++filt, of binutils."""
    run = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    )
    return dict(zip(names, map(short, run.stdout.splitlines()), strict=True))


def table(found: dict[str, dict[str, Usage]], names: dict[str, str]) -> str:
    """A row a kernel: static shared memory, then registers by architecture, with "+ n" bytes of stack."""
    architectures = sorted(
        {a for of in found.values() for a in of}, key=lambda a: int(re.sub(r"\D", "", a))
    )
    width = max(len(name) for name in names.values())
    lines = [f"{'kernel':<{width}}  shared" + "".join(f"{a:>8}" for a in architectures)]
    for kernel in sorted(found, key=lambda kernel: names[kernel]):
        of = found[kernel]
        cells = []
        for architecture in architectures:
            usage = of.get(architecture)
            spilled = usage and max(usage.stack, usage.local)
            cells.append(
                "-"
                if usage is None
                else f"{usage.registers}" + (f" + {spilled}" if spilled else "")
            )
        shared = max(usage.shared for usage in of.values())
        lines.append(f"{names[kernel]:<{width}}  {shared:>6}" + "".join(f"{c:>8}" for c in cells))
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    library = Path(sys.argv[1]) if sys.argv[1:] else LIBRARY
    if not library.exists():
        sys.exit(
            f"{library.name} was not built; name a library: python -m benchmarks.gpu_resources FILE"
        )
    tool = os.environ.get("CUOBJDUMP") or shutil.which("cuobjdump")
    if tool is None:
        sys.exit(
            "cuobjdump is not there; it comes with the CUDA toolkit (CUOBJDUMP=FILE names one)"
        )
    command = [tool, "--dump-resource-usage", str(library)]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = usage_of(report)
    print(table(found, demangled(list(found))))


if __name__ == "__main__":
    main()

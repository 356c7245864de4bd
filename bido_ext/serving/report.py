# SPDX-License-Identifier: Apache-2.0
"""``bx.backends()``: which implementation serves each op on each device, and why."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bido_ext._counted import counted
from bido_ext.serving import libraries, verdicts
from bido_ext.serving.choose import fastest
from bido_ext.serving.implementations import functions_of
from bido_ext.serving.row import ROWS, Implementation, Row

#: Of kernels for GPUs, until a run on hardware is recorded under benchmarks/results.
NEVER_RUN = "never run on hardware"


@dataclass(frozen=True)
class BackendRow:
    """Which implementation serves ``op`` on ``device``, and why.

    Attributes:
        reason: In one line.
        parts: The same in short pieces, where a choice is made among candidates: how many they are,
            each of them, and what was measured.
    """

    op: str
    device: str
    implementation: str
    reason: str
    parts: tuple[str, ...] = ()


def backends() -> list[BackendRow]:
    """Returns one row per op and device (cpu, cuda): the implementation that serves, and the reason.

    On a GPU the reason counts the candidates and lists them in the order in which they are tried where nothing
    may be measured, and what was measured there: per bucket of rows and total width the milliseconds of each,
    forward and backward.
    """
    return [one for row in ROWS.values() for one in (_on_cpu(row), _on_gpu(row))]


def _on_cpu(row: Row) -> BackendRow:
    forced = "; forced by BIDO_EXT_BACKEND" if libraries.FORCED else ""
    kernel, problem = row.get("cpu"), libraries.problems["cpu"]
    if row.composition:
        note = ""
        if kernel is not None and problem is None:
            note = f"; {kernel.serves}: kernel of bido_cpu"
        return BackendRow(row.op, "cpu", "composite", row.composition + note)
    if libraries.FORCED == "triton" and row.get("triton"):
        if libraries.INTERPRETED:
            return BackendRow(row.op, "cpu", "triton", f"Triton kernel in the interpreter{forced}")
        return BackendRow(row.op, "cpu", "refused", f"no Triton kernel for the CPU{forced}")
    if problem is None and kernel is not None:
        return BackendRow(row.op, "cpu", "cpu", f"compiled kernel of bido_cpu{forced}")
    return BackendRow(row.op, "cpu", "reference", problem or "bido_cpu has no kernel for it")


def _on_gpu(row: Row) -> BackendRow:
    note = "" if torch.cuda.is_available() else " (no CUDA device here)"
    there = [i for i in row.on_gpu() if functions_of(row.op, i.name) and not _lacking(i)]
    if row.composition:
        if not there:
            return BackendRow(row.op, "cuda", "composite", row.composition + note)
        last = f"where none of them serves, {row.composition}" if row.composition_waits else ""
        return _of_candidates(row, "composite", there, last, note)
    if libraries.FORCED == "reference":
        return BackendRow(row.op, "cuda", "reference", f"BIDO_EXT_BACKEND=reference{note}")
    if not row.on_gpu():
        return BackendRow(row.op, "cuda", "reference", f"it has no kernel for GPUs{note}")
    if libraries.FORCED:
        name = "cuda" if libraries.FORCED == "native" else libraries.FORCED
        known = row.get(name)
        if known is not None and functions_of(row.op, name):
            reason = f"{_words(known)}; forced by BIDO_EXT_BACKEND"
            return BackendRow(row.op, "cuda", name, reason + note)
        why = libraries.problems["cuda"] if name == "cuda" and known else f"it has no {name} kernel"
        return BackendRow(
            row.op, "cuda", "refused", f"BIDO_EXT_BACKEND={libraries.FORCED}: {why}{note}"
        )
    return _of_candidates(row, there[0].name, there, "", note)


def _lacking(implementation: Implementation) -> str | None:
    """What the current device has not; without one every implementation is listed."""
    if not torch.cuda.is_available():
        return None
    return implementation.lacking(torch.device("cuda", torch.cuda.current_device()))


#: Of what any op may have.
_WHAT = {
    "triton": f"Triton kernel ({NEVER_RUN})",
    "cuda": f"kernel of bido_cuda ({NEVER_RUN})",
    "composed": "PyTorch's products",
}
_HOW = "each serves after a check at first use, the fastest measured on the device first"


def _of_candidates(
    row: Row, implementation: str, there: Sequence[Implementation], last: str, note: str
) -> BackendRow:
    """How many candidates there are, in which order, and what was measured of them."""
    listed = [f"{i.name}: {_words(i)}" for i in there]
    if row.composition and not row.composition_waits:
        listed.append(row.composition)
    count = counted(len(listed), "candidate")
    times, end = _times(row), [last] if last else []
    reason = "; ".join([f"{count}: {', '.join(listed)}", *(times or [_HOW]), *end]) + note
    parts = (f"{count}{note}", *listed, *times, *end)
    return BackendRow(row.op, "cuda", implementation, reason, parts)


def backends_text(rows: Sequence[BackendRow], width: int = 100) -> str:
    """What ``backends`` gives, as a table of lines of at most ``width`` characters."""
    table = [("op", "device", "implementation", "reason")]
    table += [(r.op, r.device, r.implementation, r.parts[0] if r.parts else r.reason) for r in rows]
    widths = [max(len(line[column]) for line in table) for column in range(3)]
    lines = []
    for line, parts in zip(table, [(), *(r.parts for r in rows)], strict=True):
        cells = [cell.ljust(w) for cell, w in zip(line, widths, strict=False)]
        start = "  ".join([*cells, ""])
        lines += textwrap.wrap(
            line[3], width, initial_indent=start, subsequent_indent=" " * len(start)
        )
        for part in parts[1:]:
            lines += textwrap.wrap(part, width, initial_indent="    - ", subsequent_indent=" " * 6)
    if any(r.parts for r in rows):
        lines += ["", *textwrap.wrap(f"Of several candidates {_HOW}.", width)]
    return "\n".join(lines)


def _words(implementation: Implementation) -> str:
    what = implementation.what or _WHAT[implementation.name]
    return f"{implementation.serves}: {what}" if implementation.serves else what


def _times(row: Row) -> list[str]:
    """What was measured on the current device, a part per bucket."""
    if not torch.cuda.is_available():
        return []
    parts = []
    for key, times in verdicts.all_measured(torch.device("cuda", torch.cuda.current_device())):
        op, *where = key.split("/")
        if op == row.op:
            listed = ", ".join(
                f"{name} {t:.3g} ms" if isinstance(t, float) else f"{name}: {t}"
                for name, t in times.items()
            )
            parts.append(f"{' '.join(where[:-1])}: {fastest(times)} ({listed})")
    return parts

# SPDX-License-Identifier: Apache-2.0
"""Tells PyTorch's dispatcher who is asked on which device; once, when all ops and rows are known."""

from __future__ import annotations

import functools

import torch

from bido_ext.serving import choose, libraries, on_cpu
from bido_ext.serving.row import CONTRACTS, ROWS

_KEEP_ALIVE: list[torch.library.Library] = []


def install() -> None:
    """Loads the libraries, and registers the choice for GPUs and for the CPU."""
    libraries.load_libraries()
    library = torch.library.Library("bido_ext", "IMPL")
    for row in ROWS.values():
        for name in row.functions:
            if row.on_gpu() and libraries.FORCED != "reference":
                library.impl(name, choose.caller_of(name), "CUDA")
            # Without a second try in float64 the kernel of bido_cpu is registered by the library itself.
            forced_triton = libraries.FORCED == "triton" and row.get("triton") is not None
            if forced_triton and not libraries.INTERPRETED:
                library.impl(name, functools.partial(_no_cpu, name), "CPU")
            elif CONTRACTS[name].in_float64 is not None or forced_triton:
                library.impl(name, functools.partial(on_cpu.call, name), "CPU")
    _KEEP_ALIVE.append(library)


def _no_cpu(name: str, *args: object) -> None:
    raise NotImplementedError(
        f"BIDO_EXT_BACKEND=triton: bido_ext::{name} has no Triton kernel for the CPU. Unset it, or move the "
        "features to a CUDA device."
    )

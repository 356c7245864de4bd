# SPDX-License-Identifier: Apache-2.0
"""The card's compute capability from its driver alone, and which compiled code such a card runs.

PyTorch would take seconds of the budget and a context on the card to say it.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence

Capability = tuple[int, int]

#: CUdevice_attribute of the driver's API.
MAJOR, MINOR = 75, 76


def capability(device: str) -> Capability | None:
    """(major, minor) of "cuda" or "cuda:<i>"; None on a CPU and where the driver names no such device."""
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return None
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    handle, values = ctypes.c_int(), (ctypes.c_int(), ctypes.c_int())
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(handle), int(index or 0)):
        return None
    for value, attribute in zip(values, (MAJOR, MINOR), strict=True):
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle):
            return None
    return values[0].value, values[1].value


def name_of(card: Capability) -> str:
    """Such as sm_90."""
    return "sm_{}{}".format(*card)


def architecture_for(card: Capability) -> str:
    """What BIDO_CUDA_ARCHS has to be for that card: sm_90 has matrix instructions under 90a alone."""
    return "90a" if card == (9, 0) else "{}{}".format(*card)


def runs_on(architectures: Sequence[str], card: Capability) -> str:
    """How code built for ``architectures`` (as BIDO_CUDA_ARCHS names them) runs on a card.

    Returns:
        "machine code", "PTX" (compiled by the driver at first use; the newest architecture without a letter has
        it), or "" where it does not run. Machine code serves the same major version from its minor version on;
        with "a" that very card alone, with "f" its family; so does PTX of either.
    """
    plain = []
    for name in architectures:
        found = re.fullmatch(r"(\d+)(\d)([af]?)", name)
        if not found:
            continue
        major, minor, letter = int(found[1]), int(found[2]), found[3]
        newer = letter != "a" and card[0] == major and card[1] > minor
        if newer or card == (major, minor):
            return "machine code"
        if not letter:
            plain.append((major, minor))
    return "PTX" if plain and card > max(plain) else ""

# SPDX-License-Identifier: Apache-2.0
"""A folder of public images, as the thumbnails of FFHQ: no labels, any depth."""

from __future__ import annotations

from pathlib import Path

from .listing import SUFFIXES, Files, Listing, folder_of


def public_folder(root: Path, seed: int) -> Listing:
    """Every image below ``root``, in the order of the paths; ``seed`` has no influence."""
    paths = sorted(p for p in folder_of(root).rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"--data must hold images, {root} holds none")
    return Listing(public=Files(tuple(paths)))

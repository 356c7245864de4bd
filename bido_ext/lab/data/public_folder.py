# SPDX-License-Identifier: Apache-2.0
"""A folder of public images, as the thumbnails of FFHQ: no labels, any depth."""

from __future__ import annotations

import os
from pathlib import Path

from .listing import READ, Files, Listing, Skipped, folder_of, images_in, is_hidden
from .names import shown


def public_folder(root: Path, seed: int) -> Listing:
    """Every image below ``root``, in the order of the paths; ``seed`` has no influence."""
    skipped = Skipped()
    paths: list[Path] = []
    for folder, inner, _ in os.walk(folder_of(root)):
        inner[:] = [name for name in inner if not is_hidden(name)]
        paths += images_in(Path(folder), skipped)
    if not paths:
        raise ValueError(f"--data must hold images, {shown(root)} holds none; {READ}")
    return Listing(public=Files(tuple(sorted(paths))), skipped=skipped.sentences())

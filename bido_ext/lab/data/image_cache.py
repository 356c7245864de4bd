# SPDX-License-Identifier: Apache-2.0
"""Decoded images on disk: each set of files is decoded once and mapped into memory afterwards.

A cache entry is ``<key>.npy`` (n, channels, size, size) uint8 with ``<key>.json`` beside it; the
key is a hash of names, sizes and times of the files and of their preparation. Memory stays bounded:
images go to the file a chunk at a time, and batches are read from the map.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bido_ext.lab.data.atomic import replacing, write_text

from .decode import Preparation, read_image
from .mnist import cache_dir
from .names import shown

VERSION = 2  # of what decoding makes of a file
_CHUNK = 256


def decoded(
    paths: Sequence[Path],
    preparation: Preparation,
    cache: Path | None = None,
    *,
    progress: bool = False,
) -> tuple[Tensor, str]:
    """The images of ``paths``: (n, channels, size, size) uint8, mapped; and their SHA-256.

    Args:
        paths: Image files.
        preparation: What is done to each.
        cache: Folder of the cache; None: that of the user.
        progress: Show a progress bar.

    Raises:
        ValueError: No files, or one that cannot be used (it is named).
    """
    if not paths:
        raise ValueError("paths must name at least one image")
    folder, key = cache or cache_dir() / "images", _key(paths, preparation)
    array, about = folder / f"{key}.npy", folder / f"{key}.json"
    shape = (len(paths), preparation.channels, preparation.image_size, preparation.image_size)
    digest = _known_digest(about, array, shape)
    if digest is None:
        digest = _decode(paths, preparation, array, shape, progress)
        facts = {"version": VERSION, "sha256": digest, "shape": shape, **asdict(preparation)}
        write_text(about, json.dumps(facts) + "\n")
    # Copy-on-write: tensors need writable memory, the file stays as it is.
    return torch.from_numpy(np.load(array, mmap_mode="c")), digest


def _key(paths: Sequence[Path], preparation: Preparation) -> str:
    digest = hashlib.sha256(json.dumps([VERSION, asdict(preparation)]).encode())
    for path in paths:
        try:
            facts = path.stat()
        except OSError as error:
            raise ValueError(f"{shown(path)} cannot be read ({error.strerror})") from error
        line = f"{path.absolute()}\0{facts.st_size}\0{facts.st_mtime_ns}\n"
        digest.update(os.fsencode(line))
    return digest.hexdigest()[:32]


def _known_digest(about: Path, array: Path, shape: tuple[int, ...]) -> str | None:
    """Hash of a whole cache entry; None if there is none or it is damaged (it is made anew)."""
    try:
        facts = json.loads(about.read_text(encoding="utf-8"))
        mapped = np.load(array, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    if not isinstance(facts, dict) or facts.get("version") != VERSION or "sha256" not in facts:
        return None
    whole = mapped.shape == shape and mapped.dtype == np.uint8
    return str(facts["sha256"]) if whole else None


def _decode(
    paths: Sequence[Path],
    preparation: Preparation,
    array: Path,
    shape: tuple[int, ...],
    progress: bool,
) -> str:
    array.parent.mkdir(parents=True, exist_ok=True)
    needed, free = math.prod(shape), shutil.disk_usage(array.parent).free
    if needed > free:  # a mapped file on a full disk ends the process without a word
        raise ValueError(
            f"decoded images take {needed >> 20} MiB in {array.parent}, {free >> 20} MiB are free; "
            "set BIDO_EXT_CACHE to a folder with more room"
        )
    digest = hashlib.sha256()
    # Decoding releases the interpreter lock, so threads do.
    workers = min(8, os.cpu_count() or 1)
    with (
        replacing(array) as partial,
        ThreadPoolExecutor(workers) as pool,
        tqdm(None, "decoding images", len(paths), disable=not progress) as bar,
    ):
        mapped = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        for start in range(0, len(paths), _CHUNK):
            chunk = paths[start : start + _CHUNK]
            images = np.stack(list(pool.map(lambda path: read_image(path, preparation), chunk)))
            mapped[start : start + len(chunk)] = images
            digest.update(images.tobytes())
            bar.update(len(chunk))
        mapped.flush()
        del mapped
    return digest.hexdigest()

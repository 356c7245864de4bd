# SPDX-License-Identifier: Apache-2.0
"""``reconstructions.pt``: what an attack found, with the configuration that found it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bido_ext.lab.attacks import Reconstructions
from bido_ext.lab.models.checkpoint import load_format
from bido_ext.lab.models.safe_save import save_atomic
from bido_ext.lab.models.wanted import Wanted

FORMAT, VERSION = "bido_ext.reconstructions", 1
FOUND = Wanted("path", "checkpoint", "the reconstructions.pt of bido attack")
_ENTRIES = {"config": dict, "classes": list, "images": Tensor}
_ENTRIES |= dict.fromkeys(("latents", "target_confidence"), Tensor)


def save_reconstructions(found: Reconstructions, config: Mapping[str, Any], path: Path) -> None:
    """Write ``reconstructions.pt``: tensors, the attacked labels and the configuration."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "config": dict(config),
        "images": found.images,
        "latents": found.latents,
        "classes": list(found.classes),
        "target_confidence": found.target_confidence,
        "draws": found.draws,
        "queries": found.queries,
    }
    save_atomic(content, path)


def load_reconstructions(path: Path) -> Reconstructions:
    """Read ``reconstructions.pt``.

    Raises:
        WeightsFileError: If the file is missing, damaged, or not such a file of this version.
    """
    content = _content(path)
    return Reconstructions(
        content["images"], content["latents"], content["classes"], content["target_confidence"],
        content.get("draws", 1), content.get("queries"),
    )  # fmt: skip


def attacked_model(path: Path) -> str | None:
    """Digest of the weights of the attacked model, where the file says it.

    Raises:
        WeightsFileError: As ``load_reconstructions``.
    """
    digest: str | None = _content(path)["config"].get("target")
    return digest


def _content(path: Path) -> dict[str, Any]:
    content = load_format(path, FORMAT, VERSION, _ENTRIES, FOUND)
    images, classes = content["images"], content["classes"]
    if images.dim() != 5 or images.shape[1] != len(classes) or not images.isfinite().all():
        raise FOUND.damaged(
            path,
            f"its images are {tuple(images.shape)} for {len(classes)} classes, or not finite",
        )
    return content

# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: written atomically, read without executing anything from the file."""

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .atomic import replacing
from .models import build_model

FORMAT = "bido_ext.model"
VERSION = 1


def save_atomic(obj: Any, path: Path | str) -> None:
    """``torch.save`` into a temporary file beside ``path``, then rename: all of it or nothing."""
    # Into a file of Python's: PyTorch's own says nothing of the disk.
    with replacing(Path(path)) as partial, partial.open("wb") as file:
        torch.save(obj, file)


def load_checkpoint(path: Path | str) -> Any:
    """Read what ``save_atomic`` wrote, on the CPU, tensors and plain containers only.

    Raises:
        ValueError: no such file, or it is damaged or holds other objects.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"path: there is no checkpoint {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ValueError(f"path: {path} is not a readable checkpoint ({reason})") from error


def save_model(
    path: Path | str,
    model: nn.Module,
    arch: str,
    num_classes: int,
    defence: str,
    metrics: Mapping[str, float],
    arch_options: Mapping[str, Any] | None = None,
) -> None:
    """Write a trained classifier with what is needed to build it again."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "arch": arch,
        "num_classes": num_classes,
        "defence": defence,
        "metrics": dict(metrics),
        "arch_options": dict(arch_options or {}),
        "state_dict": model.state_dict(),
    }
    save_atomic(content, path)


def load_model(
    path: Path | str, expect_arch: str | None = None, expect_num_classes: int | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the classifier of a ``save_model`` file, in eval mode.

    Args:
        path: the file.
        expect_arch, expect_num_classes: what the caller needs; ``None`` takes what comes.

    Returns:
        The model on the CPU, and the file's other entries (arch, arch_options, num_classes, defence,
        metrics).

    Raises:
        ValueError: not such a file, or the model of another architecture or number of classes.
    """
    content = load_checkpoint(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"path: {path} is a checkpoint, but not a {FORMAT} file")
    if content["version"] != VERSION:
        raise ValueError(
            f"path: {path} has format version {content['version']}, this release reads {VERSION}"
        )
    for key, expected in (("arch", expect_arch), ("num_classes", expect_num_classes)):
        if expected is not None and content[key] != expected:
            raise ValueError(
                f"path: {path} holds a model with {key}={content[key]!r}, expected {expected!r}"
            )
    content.setdefault("arch_options", {})  # files of the first release have none
    model = build_model(
        content["arch"], content["num_classes"], content["defence"], content["arch_options"]
    )
    state = content.pop("state_dict")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"path: the weights in {path} do not fit the architecture {content['arch']!r} it names"
        ) from error
    return model.eval(), content


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over names and bytes of the module's state: tells whether two models are the same."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        # As bytes: numpy has no bfloat16.
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def resume_or_none(path: Path | str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The checkpoint at ``path`` if there is one; it must come from the same ``settings``.

    Raises:
        ValueError: the checkpoint was made with other settings (the first that differs is named).
    """
    if not Path(path).exists():
        return None
    state = load_checkpoint(path)
    saved = state.get("settings", {}) if isinstance(state, dict) else {}
    for key, value in settings.items():
        if saved.get(key) != value:
            raise ValueError(
                f"run_dir: {path} was made with {key}={saved.get(key)!r}, now {key}={value!r};"
                " give another folder, or resume=False to start over"
            )
    return state

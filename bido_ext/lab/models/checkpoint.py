# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: written atomically, read without executing anything from the file."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .authors import layout_of, model_of
from .registry import build_model
from .safe_load import check_finite_weights, load_plain, state_or_none
from .safe_save import save_atomic
from .wanted import MODEL, RUN, Wanted, WeightsFileError

FORMAT = "bido_ext.model"
VERSION = 1
_ENTRIES = {"arch": str, "num_classes": int, "defence": str, "metrics": dict, "state_dict": dict}


def load_checkpoint(path: Path | str, wanted: Wanted = MODEL) -> Any:
    """Read what ``save_atomic`` wrote, on the CPU, tensors and plain containers only.

    Raises:
        WeightsFileError: no such file, or it is damaged or holds other objects.
    """
    return load_plain(Path(path), wanted)


def load_format(
    path: Path | str, name: str, version: int, entries: Mapping[str, type], wanted: Wanted
) -> dict[str, Any]:
    """Read a file of this package, checked before anything is taken from it.

    Args:
        path: The file.
        name: Of its format.
        version: That is read here.
        entries: What it must hold, and of which type.
        wanted: What it should be, for errors.

    Raises:
        WeightsFileError: See ``load_checkpoint``; or another format or version, or a damaged file.
    """
    content = load_checkpoint(path, wanted)
    if not isinstance(content, dict) or content.get("format") != name:
        found = content.get("format") if isinstance(content, dict) else None
        kind = f"a {found} file" if isinstance(found, str) else "one of other software"
        raise wanted.refusal(path, f"is a checkpoint, but not a {name} file; it is {kind}")
    if content.get("version") != version:
        raise wanted.refusal(
            path,
            f"has format version {content.get('version')!r}, this release reads {version!r}",
        )
    check_entries(content, entries, path, wanted)
    return content


def check_entries(
    content: Mapping[str, Any], entries: Mapping[str, type], path: Path | str, wanted: Wanted
) -> None:
    """Raise WeightsFileError unless ``content`` of ``path`` has ``entries`` of these types."""
    for key, kind in entries.items():
        if key not in content:
            raise wanted.damaged(path, f"it has no {key!r}")
        if not isinstance(content[key], kind):
            found = type(content[key]).__name__
            raise wanted.damaged(path, f"its {key!r} is a {found} and not a {kind.__name__}")


def save_model(
    path: Path | str,
    model: nn.Module,
    arch: str,
    num_classes: int,
    defence: str,
    metrics: Mapping[str, float],
    arch_options: Mapping[str, Any] | None = None,
    weights: Mapping[str, float] | None = None,
) -> None:
    """Write a trained classifier with what is needed to build it again, and its defence's weights."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "arch": arch,
        "num_classes": num_classes,
        "defence": defence,
        "metrics": dict(metrics),
        "arch_options": dict(arch_options or {}),
        "weights": dict(weights or {}),
        "state_dict": model.state_dict(),
    }
    save_atomic(content, path)


def load_model(
    path: Path | str, expect_arch: str | None = None, expect_num_classes: int | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the classifier of a ``save_model`` file, or of one of the BiDO authors, in eval mode.

    Args:
        path: the file.
        expect_arch, expect_num_classes: what the caller needs; ``None`` takes what comes.

    Returns:
        The model on the CPU, and the file's other entries (arch, arch_options, num_classes, defence,
        weights, metrics); of the authors' files the defence is "unknown" or "mid".

    Raises:
        WeightsFileError: not such a file, or the model of another architecture or number of
            classes.
    """
    path = Path(path)
    content = load_checkpoint(path)
    foreign = not isinstance(content, dict) or content.get("format") != FORMAT
    state = state_or_none(content, path, MODEL) if foreign else None
    layout = None if state is None else layout_of(state)
    if state is not None and layout is not None:
        model, content = model_of(state, layout, path)
    else:
        content = load_format(path, FORMAT, VERSION, _ENTRIES, MODEL)
    for key, expected in (("arch", expect_arch), ("num_classes", expect_num_classes)):
        if expected is not None and content[key] != expected:
            raise WeightsFileError(
                MODEL.argument,
                path,
                f"{path} holds a model with {key}={content[key]!r}, expected {expected!r}; give one "
                "that fits",
            )
    if layout is None:
        model = _built(content, path)
    check_finite_weights(model.state_dict(), path, MODEL)
    return model.eval(), content


def _built(content: dict[str, Any], path: Path) -> nn.Module:
    """The model of a file of this package; its weights leave ``content``."""
    for key in ("arch_options", "weights"):  # files of the first releases have none
        content.setdefault(key, {})
        check_entries(content, {key: dict}, path, MODEL)
    model: nn.Module = build_model(
        content["arch"], content["num_classes"], content["defence"], content["arch_options"]
    )
    state = content.pop("state_dict")
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise MODEL.damaged(
            path, f"its weights do not fit the architecture {content['arch']!r} it names"
        ) from error
    return model


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over names and bytes of the module's state: tells whether two models are the same."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        # As bytes: numpy has no bfloat16.
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def resume_or_none(
    path: Path | str, settings: Mapping[str, Any], entries: Mapping[str, type] | None = None
) -> dict[str, Any] | None:
    """The checkpoint at ``path`` if there is one; it must come from the same ``settings``.

    Args:
        path: The file.
        settings: What it must have been made with.
        entries: What it must hold to continue from, and of which type.

    Raises:
        WeightsFileError: the checkpoint was made with other settings (the first that differs is named),
            or is damaged.
    """
    if not Path(path).exists():
        return None
    state = load_checkpoint(path, RUN)
    if not isinstance(state, dict):
        state = {}
    check_entries(state, {"settings": dict}, path, RUN)
    saved = state["settings"]
    for key, value in settings.items():
        if saved.get(key) != value:
            told = (
                f"{path} was made with {key}={saved.get(key)!r}, now {key}={value!r}; give another "
                "folder, or resume=False to start over"
            )
            raise WeightsFileError(RUN.argument, path, told)
    check_entries(state, entries or {}, path, RUN)
    return state

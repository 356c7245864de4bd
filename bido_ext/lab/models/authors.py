# SPDX-License-Identifier: Apache-2.0
"""Files of the BiDO authors' code (github.com/AlanPeng0897/Defend_MI): the same networks, other names.

Only names differ; every name and shape has to fit, in both directions.  Their MID networks draw
noise in evaluation too, ours take the mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .base import FeatureClassifier
from .registry import build_model
from .safe_save import save_atomic
from .wanted import MODEL

_SHOWN = 8
UNKNOWN = "unknown"  # the defence: these files do not say it


@dataclass(frozen=True)
class Layout:
    """The names of one of their classes.

    Attributes:
        name: the class, with its switch.
        arch: key of ``MODELS``.
        pairs: beginnings of names, theirs and ours.
        head: beginning of the names of the last linear layer there.
        is_mid: whether it is the variant with MID's bottleneck.
    """

    name: str
    arch: str
    pairs: tuple[tuple[str, str], ...]
    head: str = "fc_layer."
    is_mid: bool = False

    def ours(self, name: str) -> str | None:
        """Our name of one of theirs; None if it has no place."""
        return _swapped(name, self.pairs)

    def theirs(self, name: str) -> str | None:
        """Their name of one of ours."""
        return _swapped(name, tuple((ours, theirs) for theirs, ours in self.pairs))


def _swapped(name: str, pairs: tuple[tuple[str, str], ...]) -> str | None:
    fitting = [pair for pair in pairs if name.startswith(pair[0])]
    if not fitting:
        return None
    old, new = max(fitting, key=lambda pair: len(pair[0]))
    return new + name.removeprefix(old)


def _indexed(theirs: str, ours: str, start: int, count: int) -> tuple[tuple[str, str], ...]:
    """``theirs.i.`` and ``ours.(start + i).`` for ``count`` modules of a sequence."""
    return tuple((f"{theirs}.{i}.", f"{ours}.{start + i}.") for i in range(count))


_HEAD = ("fc_layer.", "head.")
_MID = (("st_layer.", "encoder."), _HEAD)
_CONVOLUTIONS = tuple((f"layer{i}.", f"layer{i}.") for i in (1, 2, 3))
# First module and number of modules of each block of VGG16, its pooling included.
_BLOCKS = ((0, 7), (7, 7), (14, 10), (24, 10), (34, 10))
_SCNN_BLOCKS = ((0, 4), (4, 4), (8, 3), (11, 3), (14, 3))
_IR = (("feature.", ""), ("output_layer.", "output_layer."), _HEAD)
LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("MCNN", "mcnn", (*_CONVOLUTIONS, _HEAD)),
        Layout(
            "MCNN_vib",
            "mcnn",
            (*((theirs, f"body.{ours}") for theirs, ours in _CONVOLUTIONS), *_MID),
            is_mid=True,
        ),
        Layout(
            "LeNet3",
            "lenet3",
            (
                ("conv1.", "layer1.0."),
                ("conv2.", "layer2.0."),
                ("fc1.", "layer3.1."),
                ("fc2.", "head."),
            ),
            head="fc2.",
        ),
        Layout(
            "SCNN",
            "scnn",
            (
                *(
                    (f"feature.{start + i}.", f"layer{block}.{i}.")
                    for block, (start, count) in enumerate(_SCNN_BLOCKS, 1)
                    for i in range(count)
                ),
                _HEAD,
            ),
        ),
        Layout(
            "VGG16 (hsic_training)",
            "vgg16",
            (
                *(
                    pair
                    for block, (start, count) in enumerate(_BLOCKS, 1)
                    for pair in _indexed(f"layer{block}", "backbone", start, count)
                ),
                ("bn.", "norm."),
                _HEAD,
            ),
        ),
        Layout("VGG16", "vgg16", (("feature.", "backbone."), ("bn.", "norm."), _HEAD)),
        Layout("VGG16_vib", "vgg16", (("feature.", "body.backbone."), *_MID), is_mid=True),
        Layout("FaceNet64", "facenet64", _IR),
        Layout("IR152", "ir152", _IR),
        Layout("FaceNet", "facenet112", (("feature.", ""), _HEAD)),
    )
}


def layout_of(state: Mapping[str, Tensor]) -> Layout | None:
    """The class that wrote ``state``, by the names in it; None if none of theirs."""
    names = list(state)

    def has(pattern: str) -> bool:
        return any(re.fullmatch(pattern, name) for name in names)

    if has(r"feature\.(input_layer|body)\..*"):
        if has(r"feature\.output_layer\..*"):
            return LAYOUTS["FaceNet"]
        return LAYOUTS["IR152" if has(r"feature\.body\.(2[4-9]|[3-9]\d)\..*") else "FaceNet64"]
    if has(r"feature\.\d+\.\w+"):
        if has(r"feature\.(1[7-9]|[2-9]\d)\.\w+"):
            return LAYOUTS["VGG16_vib" if has(r"st_layer\.\w+") else "VGG16"]
        return LAYOUTS["SCNN"]
    if has(r"conv[12]\.weight") and has(r"fc[12]\.weight"):
        return LAYOUTS["LeNet3"]
    if has(r"layer\d\.\d+\.\w+") and has(r"(fc_layer|st_layer|bn)\.\w+"):
        if has(r"layer[45]\.\d+\.\w+"):
            return LAYOUTS["VGG16 (hsic_training)"]
        return LAYOUTS["MCNN_vib" if has(r"st_layer\.\w+") else "MCNN"]
    return None


def model_of(
    state: Mapping[str, Tensor], layout: Layout, path: Path
) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a state dict of theirs, and what ``load_model`` tells of a file.

    Args:
        state: names without the prefix of ``DataParallel``.
        layout: from ``layout_of``.
        path: the file it is from.

    Raises:
        WeightsFileError: a name is missing, has no place or comes with another shape (each is
            named).
    """
    head = state.get(f"{layout.head}weight")
    if head is None or head.dim() != 2:
        raise MODEL.refusal(path, f"looks like {layout.name}, but lacks {layout.head}weight")
    options = _options(state, layout)
    defence = "mid" if layout.is_mid else UNKNOWN
    model = build_model(layout.arch, len(head), defence, options)
    wanted = {layout.theirs(name): value for name, value in model.state_dict().items()}
    problems = {
        "missing": [str(name) for name in wanted if name not in state],
        "no place for": [name for name in state if name not in wanted],
        "of another shape": [
            f"{name} {tuple(value.shape)} instead of {tuple(wanted[name].shape)}"
            for name, value in state.items()
            if name in wanted and value.shape != wanted[name].shape
        ],
    }
    if any(problems.values()):
        told = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        raise MODEL.refusal(path, f"does not fit the authors' {layout.name} ({told})")
    model.load_state_dict({str(layout.ours(name)): value for name, value in state.items()})
    facts = {
        "arch": layout.arch,
        "num_classes": len(head),
        "defence": defence,
        "metrics": {},
        "arch_options": options,
        "weights": {},
    }
    return model, facts


def body_names(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A state dict of theirs under the names of our networks without MID; None if none of theirs.

    Names that have no place stay as they are.
    """
    layout = layout_of(state)
    if layout is None:
        return None
    renamed = {layout.ours(name) or name: value for name, value in state.items()}
    if not layout.is_mid:
        return renamed
    return {
        name.removeprefix("body."): value
        for name, value in renamed.items()
        if not name.startswith(("encoder.", "head."))
    }


def authors_file(
    model: nn.Module, arch: str, options: Mapping[str, Any], layout: str | None = None
) -> tuple[dict[str, Any], str]:
    """What their scripts load for a model of ours, with ``strict=True``, and the class it is for.

    Args:
        model: from ``load_model``.
        arch, options: what it is.
        layout: key of ``LAYOUTS``; None: the only one, for VGG16 that of BiDO's training.

    Returns:
        {"state_dict": names with DataParallel's prefix}, as their training writes.

    Raises:
        ValueError: their code has no such network.
    """
    is_mid = not isinstance(model, FeatureClassifier)
    fitting = [x for x in LAYOUTS.values() if x.arch == arch and x.is_mid == is_mid]
    names = [x.name for x in fitting]
    if not fitting:
        known = ", ".join(sorted({x.arch for x in LAYOUTS.values()}))
        mid = " under MID" if is_mid else ""
        raise ValueError(f"the authors' code has no {arch!r}{mid}; it has {known}")
    if layout is not None and layout not in names:
        raise ValueError(f"layout must be one of {', '.join(names)} for {arch!r}, got {layout!r}")
    chosen = LAYOUTS[layout or names[0]]
    changed = {key: value for key, value in options.items() if key != "resize"}
    if arch == "vgg16" and changed.get("image_size") == 32:
        changed.pop("image_size")  # theirs for CIFAR-10
    if changed:
        told = ", ".join(f"{key}={value}" for key, value in changed.items())
        raise ValueError(f"the authors' code has {arch!r} without options, this model has {told}")
    state = {}
    for name, value in model.state_dict().items():
        theirs = chosen.theirs(name)
        if theirs is None:
            raise ValueError(f"the authors' {chosen.name} has no place for {name}")
        state[f"module.{theirs}"] = value.detach().cpu().contiguous()
    return {"state_dict": state}, chosen.name


def _options(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Any]:
    """VGG16 tells its image size by the width of its features; theirs knows 64 and 32 pixels."""
    reader = state.get("st_layer.weight" if layout.is_mid else f"{layout.head}weight", None)
    small = layout.arch == "vgg16" and reader is not None and reader.shape[-1] == 512
    return {"image_size": 32} if small else {}


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def write_authors(
    model: nn.Module, arch: str, options: Mapping[str, Any], path: Path, layout: str | None = None
) -> str:
    """Write ``authors_file`` to ``path``; returns the class it is for."""
    content, name = authors_file(model, arch, options, layout)
    save_atomic(content, path)
    return name

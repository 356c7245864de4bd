# SPDX-License-Identifier: Apache-2.0
"""Pretrained weights from a local file, checked name by name: nothing is skipped in silence."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from bido_ext.lab.models.safe_load import check_finite_weights, load_tensors, state_dict_of

from .authors import body_names
from .base import FeatureClassifier
from .mid import BottleneckClassifier
from .wanted import PRETRAINED, WeightsFileError

HEAD = "head"
_SHOWN = 8
_OLD_DENSE = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


def load_pretrained(model: nn.Module, path: Path | str, reinit: Sequence[str] = (HEAD,)) -> None:
    """Load the weights of ``path`` into ``model``.

    Files of torchvision, timm, face.evoLVe and the BiDO authors load under their own names, and so
    do the model files of this package (``model.pt``).

    Args:
        model: From ``build_model``; under MID only its body is loaded.
        path: A safetensors file, or what ``torch.save`` wrote: a state dict, or a checkpoint that
            holds one and nothing that would run code.
        reinit: Modules that keep their fresh weights. "head" stands for all parts of the model's
            head that depend on the classes or that such files do not have; an empty sequence wants
            every weight from the file.

    Raises:
        WeightsFileError: The file is missing or damaged, it holds weights that are not finite, or
            a name is missing, unexpected or of another shape (each is named).
        ValueError: ``reinit`` names no module.
    """
    under_mid = isinstance(model, BottleneckClassifier)
    body = model.body if isinstance(model, BottleneckClassifier) else model
    if not isinstance(body, FeatureClassifier):
        raise TypeError(f"model must come from build_model, got {type(model).__name__}")
    fresh = _modules(body, reinit)
    wanted = body.state_dict()
    path = Path(path)
    given = _renamed(_read(path), wanted, body.file_prefixes, body.file_ignored)
    if under_mid:  # the bottleneck brings a head of its own, the file's has no place
        fresh = {*fresh, HEAD}

    def is_fresh(name: str) -> bool:
        return any(name == part or name.startswith(f"{part}.") for part in fresh)

    used = {name: value for name, value in given.items() if not is_fresh(name)}
    needed = {name: value for name, value in wanted.items() if not is_fresh(name)}
    # Files of old PyTorch releases do not count batches.
    missing = [n for n in needed if n not in used and not n.endswith("num_batches_tracked")]
    unexpected = [name for name in used if name not in needed]
    shapes = [
        f"{name} {tuple(value.shape)} instead of {tuple(needed[name].shape)}"
        for name, value in used.items()
        if name in needed and value.shape != needed[name].shape
    ]
    problems = [
        f"{what} {_some(names)}"
        for what, names in (
            ("missing:", missing),
            ("unexpected:", unexpected),
            ("of another shape:", shapes),
        )
        if names
    ]
    if problems:
        advice = (
            "modules named in reinit keep fresh weights"
            if reinit
            else "the model needs the name, the options and the number of classes of its weights"
        )
        told = f"the weights in {path} do not fit the model ({'; '.join(problems)}); {advice}"
        raise WeightsFileError(PRETRAINED.argument, path, told)
    body.load_state_dict({**wanted, **used})


def file_sha256(path: Path | str) -> str:
    """SHA-256 of a file of weights; a training is that of its content, wherever it lies."""
    PRETRAINED.check_is_file(Path(path))
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _modules(body: FeatureClassifier, reinit: Sequence[str]) -> set[str]:
    known = dict(body.named_modules())
    parts: set[str] = set()
    for name in reinit:
        if name == HEAD:
            parts |= set(body.head_parts)
        elif name in known and name:
            parts.add(name)
        else:
            raise ValueError(f"reinit must name modules of the model or {HEAD!r}, got {name!r}")
    return parts


def _read(path: Path) -> dict[str, Tensor]:
    state = state_dict_of(load_tensors(path, PRETRAINED), path, PRETRAINED)
    check_finite_weights(state, path, PRETRAINED)
    ours = body_names(state)  # of a file of the BiDO authors
    return state if ours is None else ours


def _renamed(
    given: Mapping[str, Tensor],
    wanted: Iterable[str],
    prefixes: Mapping[str, str],
    ignored: tuple[str, ...],
) -> dict[str, Tensor]:
    """``given`` under our names: as they are if most are ours, else by the longest prefix."""
    if 2 * len(set(given) & set(wanted)) > len(given):
        return dict(given)
    renamed = {}
    for name, value in given.items():
        if name.startswith(ignored):
            continue
        # torchvision's files of DenseNet are older than its names, which have no dot there.
        name = _OLD_DENSE.sub(r"\1\2.", name)
        fitting = [prefix for prefix in prefixes if name.startswith(prefix)]
        prefix = max(fitting, key=len, default=None)
        new = name if prefix is None else prefixes[prefix] + name.removeprefix(prefix)
        renamed[new] = value
    return renamed


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

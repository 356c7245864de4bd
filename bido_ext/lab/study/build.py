# SPDX-License-Identifier: Apache-2.0
"""The page of a study: what is shown is drawn once from a seed, then frozen in the file."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined
from PIL import Image
from torch import Tensor

from bido_ext.lab.data.atomic import write_text
from bido_ext.lab.data.image_set import ImageSet
from bido_ext.lab.study.key import Item, Study, check_defences
from bido_ext.lab.study.sources import Candidate

QUESTION = "Which picture below is most similar to the one above?"
DEFAULT_CLASSES = 150


@dataclass(frozen=True)
class Pictures:
    """PNGs of one item: the private image, and the reconstructions by their place on the page."""

    private: bytes
    choices: tuple[bytes, ...]


def build_study(
    candidates: Sequence[Candidate],
    private: ImageSet,
    *,
    seed: int = 0,
    classes: int = DEFAULT_CLASSES,
    question: str = QUESTION,
) -> tuple[Study, list[Pictures]]:
    """Choose and order what a study shows.

    Each of the first ``classes`` identities that every defence was attacked on becomes one item: a
    private image drawn at random, and one restart drawn at random, the same of every defence (no
    restart is chosen by its looks). The places of the defences are shuffled for each item. All of
    it follows from ``seed``.

    Returns:
        The study, and the pictures of each of its items.

    Raises:
        ValueError: If there are fewer than two or too many defences, no common identity, an
            identity has no private image, or ``classes`` is below 1.
    """
    names = tuple(candidate.name for candidate in candidates)
    check_defences(names)
    if classes < 1:
        raise ValueError(f"classes must be at least 1, got {classes}")
    common = set.intersection(*(set(candidate.classes) for candidate in candidates))
    if not common:
        raise ValueError(f"no identity was attacked in all of {', '.join(names)}")
    restarts = min(len(candidate.images) for candidate in candidates)
    items, pictures = [], []
    for label in sorted(common)[:classes]:
        random = np.random.default_rng([seed, label])
        rows = (private.labels == label).nonzero().flatten()
        if len(rows) == 0:
            raise ValueError(f"private must hold an image of every identity, {label} has none")
        drawn = rows[random.integers(len(rows), size=1)]
        shown = _png(private.batch(drawn)[0])
        restart = int(random.integers(restarts))
        order = tuple(int(place) for place in random.permutation(len(names)))
        choices = tuple(_png(_reconstruction(candidates[i], label, restart)) for i in order)
        digests = tuple(_digest(choice) for choice in choices)
        items.append(Item(label, restart, order, _digest(shown), digests))
        pictures.append(Pictures(shown, choices))
    return Study(question, seed, names, tuple(items)), pictures


def write_page(study: Study, pictures: Sequence[Pictures], path: Path) -> Path:
    """Write the web page: one file, every picture inside, nothing from elsewhere.

    Returns:
        ``path``.
    """
    folder = resources.files("bido_ext.lab.study")

    def part(name: str) -> str:
        return folder.joinpath(name).read_text(encoding="utf-8")

    data = {
        "study": study.to_dict(),
        "pictures": [
            {"private": _data_uri(shown.private), "choices": list(map(_data_uri, shown.choices))}
            for shown in pictures
        ],
    }
    # "<" written as an escape, so that no text can close the script element.
    embedded = json.dumps(data).replace("<", "\\u003c")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.from_string(part("template.html")).render(
        question=study.question,
        items=len(study.items),
        choices=len(study.defences),
        style=part("page.css"),
        script=part("page.js"),
        data=embedded,
    )
    return write_text(path, html)


def _reconstruction(candidate: Candidate, label: int, restart: int) -> Tensor:
    return candidate.images[restart, candidate.classes.index(label)]


def _png(image: Tensor) -> bytes:
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _data_uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"

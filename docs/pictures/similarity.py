# SPDX-License-Identifier: Apache-2.0
"""Draws similarity.svg from similarity.json: ``python docs/pictures/similarity.py``.

``bido compare`` wrote the file, by the commands of docs/similarity.md; what the picture needs was kept.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

import bido_ext as bx
from bido_ext._drawing import svg_of

HERE = Path(__file__).resolve().parent


def main() -> None:
    found = json.loads((HERE / "similarity.json").read_text())
    matrix = torch.tensor(
        [[float("nan") if v is None else v for v in row] for row in found["matrix"]]
    ).double()
    similarity = bx.SimilarityMatrix(
        matrix, tuple(found["layers"]), tuple(found["other_layers"]), found["measure"],
        found["estimator"], found["batches"], found["samples"],
    )  # fmt: skip
    title = f"{found['samples']} images, {found['batches']} mini-batches"
    figure = similarity.plot(title=title, model="mcnn (none)", other="mcnn (bido-hsic)")
    (HERE / "similarity.svg").write_text(svg_of(figure, "CKA of the layers of two small networks"))


if __name__ == "__main__":
    main()

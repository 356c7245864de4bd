# SPDX-License-Identifier: Apache-2.0
"""The real-faces table: split, classifiers, tables from their JSON; the archive where it is at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from benchmarks.lfw import table
from benchmarks.lfw.cells import CELLS
from benchmarks.lfw.judge import FaceJudge
from benchmarks.lfw.networks import TAPS, SlimVGG
from benchmarks.lfw.protocol import Faces, load_faces, split_people
from benchmarks.lfw.target import TargetConfig, train

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "lfw" / "results.json"
ARCHIVE = Path(os.environ.get("LFWCROP64", ROOT.parent / "shared" / "data" / "lfwcrop64.zip"))


def some_files(**counts: int) -> dict[str, list[str]]:
    return {name: [f"{name}_{i:04}.jpg" for i in range(n)] for name, n in counts.items()}


def test_private_people_have_many_images_and_share_none_with_the_public():
    private, public = split_people(some_files(rare=19, enough=20, famous=500))
    assert list(private) == ["enough", "famous"]
    assert public == [f"rare_{i:04}.jpg" for i in range(19)]
    sizes = {name: (len(s["train"]), len(s["test"])) for name, s in private.items()}
    assert sizes == {"enough": (16, 4), "famous": (48, 12)}
    assert not set(private["famous"]["train"]) & set(private["famous"]["test"])
    assert split_people(some_files(rare=19, enough=20, famous=500)) == (private, public)


def test_another_archive_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        load_faces(tmp_path / "faces.zip")
    (tmp_path / "faces.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match="must have the SHA-256"):
        load_faces(tmp_path / "faces.zip")


@pytest.mark.skipif(not ARCHIVE.is_file(), reason="the LFWcrop archive is not at hand (LFWCROP64)")
def test_the_archive_gives_the_documented_counts():
    faces = load_faces(ARCHIVE)
    assert (len(faces.people), len(faces.public)) == (62, 10_210)
    assert faces.train.shape[1:] == faces.public.shape[1:] == (3, 64, 64)
    assert (len(faces.train), len(faces.test)) == (1_726, 429)
    assert faces.train_labels.unique().tolist() == list(range(62))
    assert faces.test_labels.unique().tolist() == list(range(62))


def test_the_taps_are_where_the_image_halves():
    seen = {}
    model = SlimVGG(5)
    for name in TAPS:
        getattr(model, name).register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: tuple(out.shape[1:])})
        )
    assert model.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 5)
    assert list(seen.values()) == [
        (16, 32, 32), (32, 16, 16), (64, 8, 8), (128, 4, 4), (128, 2, 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("defence", "weights", "part"),
    [
        ("none", {}, "ce"),
        ("mid", {"beta": 0.01}, "kl"),
        ("bido-hsic", {"lambda_x": 0.05, "lambda_y": 0.5}, "d(x,layer1)"),
        ("bido-coco", {"lambda_x": 1.0, "lambda_y": 50.0}, "d(layer5,y)"),
    ],
)
def test_every_defence_trains(defence, weights, part):
    labels = torch.arange(4).repeat_interleave(4)
    images = torch.randint(0, 256, (16, 3, 64, 64), dtype=torch.uint8)
    faces = Faces(tuple("abcd"), images, labels, images[:4], labels[:4], images)
    config = TargetConfig(defence, weights, epochs=2, batch_size=8, per_person=4, width=4)
    outcome = train(config, faces).outcome
    assert outcome["finite"]
    assert part in outcome["last_epoch"]
    assert 0 <= outcome["natural_accuracy"] <= 1


def test_a_judge_without_dlib_is_said_so(tmp_path):
    with pytest.raises(ValueError, match="judge_python must be a Python with dlib"):
        FaceJudge(tmp_path / "python", tmp_path, 3)


def test_cells_have_names_of_their_own():
    names = [cell.name for cell in CELLS]
    assert len(set(names)) == len(names)
    assert CELLS[0].defence == "none"


def test_the_document_says_what_the_results_say():
    results = json.loads(RESULTS.read_text())
    text = (ROOT / "docs" / "lfw.md").read_text()
    for name, make in table.TABLES.items():
        assert f"<!-- lfw:{name} -->\n{make(results)}\n<!-- /lfw:{name} -->" in text


def test_no_private_image_is_in_the_repository():
    kept = [path.name for path in RESULTS.parent.iterdir()]
    assert sorted(kept) == ["reconstructions.png", "results.json"]

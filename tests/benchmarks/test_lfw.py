# SPDX-License-Identifier: Apache-2.0
"""The real-faces table: split, classifiers, tables from their JSON; the archive where it is at hand."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from preloaded import server

from benchmarks.lfw import attack, parallel, table
from benchmarks.lfw.cells import ATTACKS, CELLS, Cell
from benchmarks.lfw.judge import FaceJudge
from benchmarks.lfw.kept import kept_rows
from benchmarks.lfw.networks import TAPS, SlimVGG
from benchmarks.lfw.parallel import rows_of
from benchmarks.lfw.pictures import save_pictures
from benchmarks.lfw.prior import SHAPE, Prior
from benchmarks.lfw.protocol import Faces, load_faces, split_people
from benchmarks.lfw.summary import summary
from benchmarks.lfw.target import TargetConfig, train
from bido_ext.lab.attacks.networks import Critic, Generator
from bido_ext.lab.experiments.stage import RunOptions
from bido_ext.lab.judging import wilson_interval

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


class StandIn:
    """A run whose rows say in which process and with how many threads they were made."""

    def prepare(self):
        self.ready = True

    def cell(self, cell):
        return {"name": cell.name, "process": os.getpid(), "threads": torch.get_num_threads()}


def test_cells_are_shared_among_processes(monkeypatch):
    # Forked from a process that has PyTorch, which a spawned one takes seconds to import.
    monkeypatch.setattr(parallel, "get_context", lambda kind: server())
    cells = [Cell("none", seed=seed) for seed in range(3)]
    rows = list(rows_of(StandIn, cells, 2))
    assert sorted(row["name"] for row in rows) == [cell.name for cell in cells]
    assert os.getpid() not in {row["process"] for row in rows}
    assert {row["threads"] for row in rows} == {torch.get_num_threads()}


TINY = {
    "gmi": replace(attack.GMI, steps=1, restarts=2),
    "ked": replace(attack.KED, steps=1, samples=2),
    "ppa": replace(attack.PPA, steps=1, candidates=4, kept=2, selected=2, transforms=1),
}


@pytest.fixture
def tiny_attacks(monkeypatch):
    for name, config in TINY.items():
        monkeypatch.setitem(attack.SETTINGS, name, config)
    small = replace(attack.KED_GAN, steps=1, critic_steps=1, batch_size=4, width=0.05)
    monkeypatch.setitem(attack.OWN_PRIOR, "ked", replace(small, critic_width=0.05))


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_rebuilds_every_person_and_is_not_run_twice(name, tiny_attacks, tmp_path):
    images = torch.randint(0, 256, (8, *SHAPE), dtype=torch.uint8)
    labels = torch.arange(8) % 3
    faces = Faces(tuple("abc"), images, labels, images, labels, images)
    prior = Prior(Generator(0.05, SHAPE), Critic(0.05, SHAPE), 0.0)
    target = SlimVGG(3, width=4).eval()
    options = RunOptions(on_change="rerun", progress=False)
    found, seconds = attack.attack(name, target, prior, faces, tmp_path, options)
    assert found.images.shape == (2, 3, *SHAPE)
    assert found.images.isfinite().all()
    assert set(seconds) == {"attack", "prior"} if name == "ked" else {"attack"}
    again, same = attack.attack(name, target, prior, faces, tmp_path, options)
    assert torch.equal(again.images, found.images)
    assert same == seconds


def test_an_unknown_attack_is_said_so(tmp_path):
    with pytest.raises(ValueError, match="attack must be one of gmi, ked, ppa"):
        attack.attack("vmi", None, None, None, tmp_path, RunOptions())  # type: ignore[arg-type]


def some_results(**changes):
    facts = {"data": {}, "judge": {}, "chance": {}, "target": {"epochs": 35}}
    document = {**facts, "prior": {"steps": 1, "seconds": 2.0}, "written": "2026-01-01T00:00:00Z"}
    document["attacks"] = {"gmi": {"steps": 1}, "ked": {"steps": 1}}
    return {**document, **changes}


def some_row(defence, seed, hits, attacks=("gmi",), accuracy=0.8):
    found = {
        "attack_accuracy": sum(hits) / 4 / len(hits), "hits_per_class": hits, "restarts": 4,
        "classes": len(hits), "knn_distance": 0.5, "frechet_distance": 0.25,
    }  # fmt: skip
    return {
        "name": f"{defence}-s{seed}", "defence": defence, "weights": {}, "seed": seed, "epochs": 35,
        "training": {"natural_accuracy": accuracy}, "attacks": dict.fromkeys(attacks, found),
    }  # fmt: skip


def test_rows_stay_with_the_attacks_that_were_run_alike(tmp_path):
    path = tmp_path / "results.json"
    assert kept_rows(path, some_results()) == {}
    path.write_text(json.dumps(some_results(rows=[some_row("none", 0, [1], ("gmi", "ked"))])))
    facts = some_results(
        attacks={"gmi": {"steps": 1}, "ked": {"steps": 2}}, prior={"steps": 1, "seconds": 9.0}
    )
    (row,) = kept_rows(path, facts).values()
    assert list(row["attacks"]) == ["gmi"]
    assert row["written"] == "2026-01-01T00:00:00Z"
    for name, value in (("chance", {"top1": 0.1}), ("prior", {"steps": 2, "seconds": 2.0})):
        with pytest.raises(ValueError, match=f"another {name}"):
            kept_rows(path, {**facts, name: value})


def test_the_summary_pools_seeds():
    rows = [
        some_row("none", 1, [4, 2], accuracy=0.7),
        some_row("none", 0, [2, 0], ("gmi", "ked")),
        some_row("mid", 0, [1, 0], ("gmi", "ked")),
        some_row("bido-coco", 0, [1, 1]),
    ]
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in summary(some_results(rows=rows)).splitlines()[2:]
    ]
    assert [(line[0], line[2]) for line in lines] == [
        ("no defence", "gmi"), ("MID", "gmi"), ("no defence", "ked"), ("MID", "ked"),
    ]  # fmt: skip
    low, high = wilson_interval(8, 16)
    assert lines[0][3:8] == [
        "0, 1", "75.0 % (70.0 to 80.0)", "50.0 % (25.0 to 75.0)",
        f"{100 * low:.1f} to {100 * high:.1f} (n = 16)", "–",
    ]  # fmt: skip
    assert lines[1][5] == "12.5 %"
    assert lines[1][7] == "50.0 %"  # of the undefended one of the same seed


def test_the_picture_waits_for_all_reconstructions(tmp_path):
    path = tmp_path / "picture.png"
    cells = [Cell("none", attacks=ATTACKS)]
    assert save_pictures(None, tmp_path, cells, path) == path  # type: ignore[arg-type]
    assert not path.exists()


def test_the_document_says_what_the_results_say():
    results = json.loads(RESULTS.read_text())
    text = (ROOT / "docs" / "lfw.md").read_text()
    for name, make in table.TABLES.items():
        assert f"<!-- lfw:{name} -->\n{make(results)}\n<!-- /lfw:{name} -->" in text


def test_no_private_image_is_in_the_repository():
    kept = [path.name for path in RESULTS.parent.iterdir()]
    assert sorted(kept) == ["reconstructions.png", "results.json"]

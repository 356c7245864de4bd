# SPDX-License-Identifier: Apache-2.0
"""The user study: what is shown, the page, the files, and a count by hand."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from study_stand_ins import NAMES, a_study, some_candidates, some_private, the_answers

from bido_ext.lab.attacks import Reconstructions
from bido_ext.lab.attacks.reconstructions import save_reconstructions
from bido_ext.lab.data import DataConfig, load_task
from bido_ext.lab.data.image_set import ImageSet
from bido_ext.lab.data.small_data import write_small
from bido_ext.lab.data.synthetic import synthetic_digits
from bido_ext.lab.study import (
    Study,
    build_study,
    find_candidates,
    private_of,
    read_answers,
    read_study,
    score,
    score_table,
    write_page,
    write_study,
)


@pytest.fixture
def private() -> ImageSet:
    torch.manual_seed(0)
    return some_private()


def grey(png: bytes) -> int:
    return int(np.asarray(Image.open(io.BytesIO(png)))[0, 0])


def saved(tmp_path, name, document):
    path = tmp_path / name
    path.write_text(json.dumps(document))
    return path


def test_each_button_shows_the_defence_that_the_order_names(private):
    study, pictures = build_study(some_candidates(), private, seed=3)
    for item, shown in zip(study.items, pictures, strict=True):
        expected = [100 * d + 10 * item.label + item.restart for d in item.order]
        assert [grey(png) for png in shown.choices] == expected


def test_everything_follows_from_the_seed(private):
    first, again = (build_study(some_candidates(), private, seed=1) for _ in range(2))
    assert first == again
    other, _ = build_study(some_candidates(), private, seed=2)
    assert other.digest != first[0].digest


def test_places_and_restarts_are_evenly_drawn():
    candidates, private = some_candidates(classes=10), some_private(10)
    items = [
        item for seed in range(60) for item in build_study(candidates, private, seed=seed)[0].items
    ]
    for place in range(3):
        shares = np.bincount([item.order[place] for item in items], minlength=3) / len(items)
        assert np.abs(shares - 1 / 3).max() < 0.08
    assert abs(np.mean([item.restart for item in items]) - 0.5) < 0.08


def test_the_first_common_identities_are_shown(private):
    candidates = some_candidates()
    candidates[1] = replace(candidates[1], images=candidates[1].images[:, 1:], classes=(1, 2, 3, 4))
    study, pictures = build_study(candidates, private, classes=3)
    assert [item.label for item in study.items] == [1, 2, 3]
    place = study.items[0].order.index(1)
    assert grey(pictures[0].choices[place]) == 110 + study.items[0].restart


@pytest.mark.parametrize(
    ("names", "classes", "labels", "message"),
    [
        (("none",), 5, 5, "2 to 9 defences, got 1: none"),
        (tuple(map(str, range(10))), 5, 5, "2 to 9 defences, got 10"),
        (("a", "a"), 5, 5, "different names, got a, a"),
        (("a", "b"), 0, 5, "classes must be at least 1, got 0"),
        (("a", "b"), 5, 4, "private must hold an image of every identity, 4 has none"),
    ],
)
def test_wrong_studies_are_refused(names, classes, labels, message):
    with pytest.raises(ValueError, match=message):
        build_study(some_candidates(names), some_private(labels), classes=classes)


def test_the_page_is_one_file_without_names_in_sight(private, tmp_path):
    study, pictures = build_study(some_candidates(), private, question="</script><b>Which?")
    html = write_page(study, pictures, tmp_path / "study.html").read_text()
    assert "https://" not in html
    assert "http://" not in html
    assert not re.search(r"\bsrc=|@import|url\(", html)
    assert "default-src 'none'" in html
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1]
    assert Study.from_dict(json.loads(data)["study"]) == study
    assert len(re.findall("data:image/png;base64,", data)) == 5 * 4
    visible = re.sub(r"<(script|style).*?</\1>", "", html, flags=re.S)
    assert not any(name in visible for name in ("mid", "bido-hsic"))
    assert "&lt;/script&gt;&lt;b&gt;Which?" in visible
    assert [path.name for path in tmp_path.iterdir()] == ["study.html"]


def test_a_study_survives_the_way_through_the_file(tmp_path):
    study = a_study()
    path = write_study(study, tmp_path / "study.json")
    assert read_study(path) == study
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ValueError, match=r"study\.json: the study's hash does not fit"):
        read_study(path)


def test_a_count_by_hand(tmp_path):
    study = a_study()
    orders = {item.label: item.order for item in study.items}
    first = [1, 2, 0, 3, None]
    second = [1, 1, 1, 1, 1]
    files = {
        path: read_answers(path)
        for path in (
            saved(tmp_path, "a.json", the_answers(study, first, "p1")),
            saved(tmp_path, "b.json", the_answers(study, second, "p2")),
        )
    }
    by_hand = [0, 0, 0]
    by_hand[orders[0][0]] += 1
    by_hand[orders[1][1]] += 1
    by_hand[orders[3][2]] += 1
    for label in range(5):
        by_hand[orders[label][0]] += 1
    result = score(files, study=study)
    counted = {count.defence: count.selected for count in result.counts}
    assert counted == {**dict(zip(NAMES, by_hand, strict=True)), None: 1}
    assert (result.participants, result.judgements, result.unanswered) == (2, 9, 1)
    assert sum(count.share for count in result.counts) == pytest.approx(1)
    assert result.by_participant["p1"][""] == 1
    assert "9 judgements of 2 participants on 5 identities, 1 unanswered" in score_table(result)


def test_only_the_first_classes_count(tmp_path):
    study = a_study()
    path = saved(tmp_path, "a.json", the_answers(study, [1, 0, 1, 1, 1]))
    result = score({path: read_answers(path)}, classes=2)
    assert (result.classes, result.judgements) == (2, 2)
    chosen = study.defences[study.items[0].order[0]]
    assert {c.defence for c in result.counts if c.selected} == {chosen, None}


def test_answers_of_another_study_are_refused(tmp_path):
    here, there = a_study(seed=0), a_study(seed=1)
    files = {
        path: read_answers(path)
        for path in (
            saved(tmp_path, "a.json", the_answers(here, [1] * 5, "p1")),
            saved(tmp_path, "b.json", the_answers(there, [1] * 5, "p2")),
        )
    }
    with pytest.raises(ValueError, match=r"b\.json answers another study \(hash .*expected"):
        score(files)
    with pytest.raises(ValueError, match=r"a\.json answers another study"):
        score(files, study=there)


def test_one_participant_counts_once(tmp_path):
    study = a_study()
    paths = [saved(tmp_path, name, the_answers(study, [1] * 5)) for name in ("a.json", "b.json")]
    with pytest.raises(ValueError, match=r"b\.json and .*a\.json are of the same participant"):
        score({path: read_answers(path) for path in paths})


def _changed(document, **changes):
    return {**document, **changes}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: _changed(d, format="x"), "must be a JSON object"),
        (lambda d: _changed(d, version=2), "version 1, got 2"),
        (lambda d: _changed(d, study=None), "a study must be"),
        (lambda d: _changed(d, answers=[{"label": 0}]), "lack a field"),
        (lambda d: _changed(d, answers=d["answers"] * 2), "each label once, got 0"),
        (
            lambda d: _changed(d, answers=[{**d["answers"][0], "choice": 4}]),
            r"0\.\.3, label 0 has 4",
        ),
        (lambda d: _changed(d, answers=[{**d["answers"][0], "choice": 0}]), "stands for None"),
        (lambda d: _changed(d, study={**d["study"], "defences": ["x", "y", "z"]}), "was changed"),
    ],
)
def test_damaged_answers_are_refused_with_their_file(tmp_path, change, message):
    path = saved(tmp_path, "a.json", change(the_answers(a_study(), [1] * 5)))
    with pytest.raises(ValueError, match=rf"a\.json: .*{message}"):
        read_answers(path)


def test_nothing_answered_is_no_score(tmp_path):
    path = saved(tmp_path, "a.json", the_answers(a_study(), [None] * 5))
    with pytest.raises(ValueError, match="an answer on the first 5 identities"):
        score({path: read_answers(path)})


def test_attack_folders_and_an_npz_are_sources(tmp_path):
    for name in ("plain", "defended"):
        found = Reconstructions(
            torch.rand(2, 3, 3, 8, 8), torch.rand(2, 3, 4), [0, 1, 2], torch.rand(2, 3)
        )
        save_reconstructions(found, {}, tmp_path / name / "reconstructions.pt")
    folders = [tmp_path / "plain", tmp_path / "defended"]
    candidates = find_candidates(folders, ["defended", "plain"])
    assert [candidate.name for candidate in candidates] == ["defended", "plain"]
    npz = tmp_path / "private.npz"
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.savez(npz, images=images, labels=np.arange(3))
    private = private_of(folders, file=npz)
    assert torch.equal(
        (private.tensors[0] * 255).round().byte().permute(0, 2, 3, 1), torch.from_numpy(images)
    )
    assert len(build_study(candidates, private)[0].items) == 3
    with pytest.raises(ValueError, match="among plain, defended, got 'other'"):
        find_candidates(folders, ["other"])
    with pytest.raises(ValueError, match="holds neither"):
        find_candidates([tmp_path])
    with pytest.raises(ValueError, match=r"give --dataset, or --private"):
        private_of(folders)
    np.savez(npz, images=images.astype(np.float32), labels=np.arange(3))
    with pytest.raises(ValueError, match="must be uint8"):
        private_of(folders, file=npz)
    np.savez(npz, images=images, labels=np.arange(4))
    with pytest.raises(ValueError, match="3 integers"):
        private_of(folders, file=npz)


def test_folders_of_recipes_name_their_data(tmp_path):
    for name in ("plain", "defended"):
        found = Reconstructions(
            torch.rand(1, 5, 1, 32, 32), torch.rand(1, 5, 4), list(range(5)), torch.rand(1, 5)
        )
        save_reconstructions(found, {}, tmp_path / name / "attack" / "reconstructions.pt")
        data = {"config": {"data": {"private": "synthetic"}}}
        (tmp_path / name / "results.json").write_text(json.dumps(data))
    folders = [tmp_path / "plain", tmp_path / "defended"]
    candidates = find_candidates(folders)
    assert [candidate.name for candidate in candidates] == ["plain", "defended"]
    private = private_of(folders)
    assert private.shape == (1, 32, 32)
    assert len(build_study(candidates, private)[0].items) == 5
    (tmp_path / "plain" / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"results\.json is not valid JSON"):
        find_candidates(folders)


TARGET = {"arch": "vgg16", "arch_options": {"image_size": 32}}


def run_folder(path, side=32, *, target=TARGET, **data):
    """A result folder of ``bido run`` on faces, with reconstructions of ``side`` pixels."""
    found = Reconstructions(
        torch.rand(1, 3, 3, side, side), torch.rand(1, 3, 4), [0, 1, 2], torch.rand(1, 3)
    )
    save_reconstructions(found, {}, path / "attack" / "reconstructions.pt")
    data = {"private": "celeba", "crop": 64, "val_fraction": 0.3, **data}
    (path / "results.json").write_text(json.dumps({"config": {"data": data, "target": target}}))
    return path


@pytest.fixture
def celeba(tmp_path, monkeypatch):
    monkeypatch.setenv("BIDO_EXT_CACHE", str(tmp_path / "cache"))
    return write_small("celeba", tmp_path / "celeba", classes=3, images=8, public=2)


def as_recorded(root, **changes):
    settings = {"crop": 64, "val_fraction": 0.3, "image_size": 32, **changes}
    return load_task(DataConfig("celeba", root, private_only=True, **settings))


def test_private_images_are_cut_and_sized_as_the_models_saw_them(celeba, tmp_path):
    wanted = as_recorded(celeba)
    folder = run_folder(tmp_path / "run", sha256=wanted.digest)
    for path in listed(celeba, "ganset.txt"):
        path.write_text("no image")  # public ones are nobody's business here
    for dataset in (None, "celeba"):
        shown = private_of([folder], dataset=dataset, data_root=celeba)
        assert torch.equal(shown.tensors[0], wanted.train.tensors[0])
    alone = tmp_path / "attack"
    (folder / "attack").rename(alone)
    shown = private_of([alone], dataset="celeba", data_root=celeba)
    expected = as_recorded(celeba, crop=None, val_fraction=0.1).train
    assert torch.equal(shown.tensors[0], expected.tensors[0])


def listed(root, name):
    stems = [line.split(".")[0] for line in (root / name).read_text().splitlines()]
    return [root / "img_align_celeba" / f"{stem}.jpg" for stem in stems]


def test_other_images_than_the_recorded_ones_are_refused(celeba, tmp_path):
    digest = as_recorded(celeba).digest
    other = write_small("celeba", tmp_path / "other", classes=3, images=8, public=2, seed=1)
    folder = run_folder(tmp_path / "run", sha256=digest)
    with pytest.raises(ValueError, match=rf"run.results\.json has their SHA-256 as {digest[:12]}"):
        private_of([folder], data_root=other)
    larger = run_folder(tmp_path / "larger", 40, sha256=digest)  # the hash is of 32 pixels
    assert private_of([larger], data_root=celeba).shape == (3, 40, 40)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"private": "lfw", "crop": 64}, "dataset is 'celeba' in .*, 'lfw' in "),
        ({"crop": -1}, "crop is 64 in .*, 108 in "),
    ],
)
def test_folders_of_different_private_images_are_refused(celeba, tmp_path, data, message):
    folders = [run_folder(tmp_path / "a"), run_folder(tmp_path / "b", **data)]
    with pytest.raises(ValueError, match=f"must be of the same private images: {message}"):
        private_of(folders, data_root=celeba)


def test_a_demo_records_the_hash_of_its_digits(tmp_path):
    folder = run_folder(tmp_path / "demo", 28, target={})
    for sha256, is_refused in ((synthetic_digits().sha256(), False), ("0" * 64, True)):
        data = {"name": "synthetic", "sha256": sha256}
        (folder / "results.json").write_text(json.dumps({"config": {"data": data}}))
        if is_refused:
            with pytest.raises(ValueError, match="SHA-256 as 000000000000, here it is"):
                private_of([folder])
        else:
            assert private_of([folder]).shape == (1, 28, 28)

# SPDX-License-Identifier: Apache-2.0
"""Folders and lists as people have them: read rightly, or told what is left out and why."""

import os
import shutil
import warnings

import pytest
from PIL import Image
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.lab.data import DataConfig, load_task
from bido_ext.lab.data.check import check_data, check_public
from bido_ext.lab.data.registry import DataNote, listings
from bido_ext.lab.data.small_data import write_small


def _images(folder, count=4, suffix=".png", first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (16, 16), (first + i, 0, 0)).save(folder / f"{i}{suffix}")


def _listing(root, name="folders"):
    return listings(DataConfig(name, root))[0]


@pytest.fixture
def own(tmp_path):
    for label, name in enumerate(("ant", "bee", "cat")):
        _images(tmp_path / "own" / name, first=20 * label)
    return tmp_path / "own"


@pytest.fixture
def celeba(tmp_path):
    return write_small("celeba", tmp_path / "celeba", classes=3, images=8, public=12)


@pytest.mark.parametrize(
    ("name", "what"),
    [("deep", "holds 4 one folder deeper or more, as x/0.png"), ("empty", "holds nothing"),
     ("other", "holds none, but 1.heic")],
)  # fmt: skip
def test_no_class_vanishes(own, name, what):
    (own / "bear").mkdir()
    if name == "deep":
        _images(own / "bear" / "x")
    elif name == "other":
        (own / "bear" / "1.heic").write_bytes(b"")
    with pytest.raises(ValueError, match=rf"bear {what}; images end in .png, .*; remove the folde"):
        _listing(own)
    (problem,) = check_data(DataConfig("folders", own)).problems
    assert what in problem


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".ppm", ".jfif", ".JPG", ".TIFF"])
def test_classes_of_any_suffix_that_is_read(own, suffix):
    shutil.rmtree(own / "bee")
    _images(own / "bee", suffix=suffix)
    assert _listing(own).class_names == ("ant", "bee", "cat")
    assert check_data(DataConfig("folders", own)).notes == ()


def test_what_is_skipped_is_told(own, tmp_path):
    (own / "ant" / "a.heic").write_bytes(b"")
    (own / "bee" / "b.heic").write_bytes(b"")
    (own / "bee" / "README").write_text("")
    _images(own / "cat" / "more", 2)
    _images(own, 1)
    os.mkfifo(own / "ant" / "pipe.png")
    (own / "ant" / "._0.png").write_bytes(b"AppleDouble")
    _images(own / "__MACOSX" / "ant")
    report = check_data(DataConfig("folders", own))
    notes = " | ".join(report.notes)
    assert report.problems == ()
    assert "skipped 2 files that end in .heic (images end in .png, .jpg" in notes
    assert "skipped 1 files without a suffix" in notes
    assert "skipped 2 images in folders inside those of classes, as " in notes
    assert "skipped 1 images that lie in no folder of a class, as " in notes
    assert "skipped 1 pipes or devices, as " in notes
    assert len(report.notes) == 5
    with pytest.warns(DataNote, match=r"skipped 2 files that end in \.heic"):
        load_task(DataConfig("folders", own, cache=tmp_path / "cache", image_size=16))
    shown = CliRunner().invoke(app, ["data", "check", "folders", str(own), "--quick"])
    assert "note    skipped 2 files that end in .heic" in shown.stdout


def test_nothing_is_told_where_nothing_is_skipped(own, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_task(DataConfig("folders", own, cache=tmp_path / "cache", image_size=16))


@pytest.mark.parametrize("name", ["lfw", "facescrub"])
def test_people_without_images_are_told(tmp_path, name):
    root = write_small(name, tmp_path / "p", classes=3, images=20)
    next(root.rglob("Person_00")).with_name("Nobody").mkdir()
    assert any("skipped 1 folders without images" in text for text in _listing(root, name).skipped)


def test_people_of_facescrub_with_one_image_are_told(tmp_path):
    root = write_small("facescrub", tmp_path / "p", classes=3, images=5)
    _images(root / "actors" / "faces" / "Once", 1)
    listing = _listing(root, "facescrub")
    assert "Once" not in listing.class_names
    assert any("skipped 1 people with one image alone" in text for text in listing.skipped)


def test_one_folder_around_the_classes_is_looked_through(own, tmp_path):
    outer = tmp_path / "outer" / "again"
    outer.mkdir(parents=True)
    own.rename(outer / "own")
    assert _listing(tmp_path / "outer").class_names == ("ant", "bee", "cat")
    kaggle = write_small("lfw", tmp_path / "k", classes=2, images=20)
    (kaggle / "lfwcrop64").rename(kaggle / "deep")
    assert len(_listing(kaggle, "lfw").class_names) == 2


@pytest.mark.parametrize("test", ["test", "val", "Test"])
def test_training_and_test_folders_decide(own, tmp_path, test):
    root = tmp_path / "parts"
    root.mkdir()
    shutil.copytree(own, root / test)
    own.rename(root / "train")
    for i, path in enumerate(sorted((root / test).rglob("*.png"))):
        Image.new("RGB", (16, 16), (0, i, 9)).save(path)
    shutil.rmtree(root / test / "ant")
    listing = _listing(root)
    assert listing.class_names == ("ant", "bee", "cat")
    assert (len(listing.train), len(listing.test)) == (12, 8)
    assert sorted(set(listing.test.labels)) == [1, 2], "labels are those of the training folder"
    assert {path.parts[-3] for path in listing.train.paths} == {"train"}
    assert "1 classes have no test image" in check_data(DataConfig("folders", root)).problems[0]
    _images(root / test / "dog")
    with pytest.raises(ValueError, match=r"has the class dog, .*train has not"):
        _listing(root)


def test_validation_images_beside_test_images_are_told(own, tmp_path):
    root = tmp_path / "parts"
    for part in ("val", "test"):
        shutil.copytree(own, root / part)
    own.rename(root / "train")
    assert any("skipped 12 images for validation" in text for text in _listing(root).skipped)
    _images(root / "extra")
    with pytest.raises(ValueError, match="beside train it holds extra"):
        _listing(root)


def test_where_the_classes_lie_is_said(own, tmp_path):
    (tmp_path / "top" / "b").mkdir(parents=True)
    own.rename(tmp_path / "top" / "a")
    with pytest.raises(ValueError, match=r"such folders lie in .*top/a: give that one"):
        _listing(tmp_path / "top")
    with pytest.raises(ValueError, match=r"holds none with images; images end in \.png, \.jpg"):
        _listing(tmp_path / "top" / "b")
    with pytest.raises(ValueError, match=r"holds none; images end in \.png"):
        listings(DataConfig("celeba", tmp_path / "top" / "b"))


def test_doubled_folder_of_celeba(celeba):
    images = celeba / "img_align_celeba"
    images.rename(celeba / "x")
    images.mkdir()
    (celeba / "x").rename(images / "img_align_celeba")
    assert len(_listing(celeba, "celeba").class_names) == 3


def test_apple_double_files_are_no_images(celeba, tmp_path):
    thumbnails = write_small("ffhq", tmp_path / "ffhq", public=3)
    for folder in (thumbnails / "00000", celeba / "img_align_celeba"):
        (folder / "._00001.png").write_bytes(b"\0\5\26\7")
    report = check_public("ffhq", thumbnails)
    assert (report.problems, report.counts) == ((), {"public": 3})
    assert check_data(DataConfig("celeba", celeba)).problems == ()


def test_a_pipe_among_images_does_not_hang(tmp_path):
    thumbnails = write_small("ffhq", tmp_path / "ffhq", public=3)
    os.mkfifo(thumbnails / "00000" / "x.png")
    report = check_public("ffhq", thumbnails)
    assert report.counts == {"public": 3}
    assert "skipped 1 pipes or devices, as " in report.notes[0]


def test_the_same_bytes_under_two_labels(own):
    shutil.copy(own / "ant" / "0.png", own / "bee" / "copy.png")
    problems = " | ".join(check_data(DataConfig("folders", own)).problems)
    assert "has the very bytes of" in problems
    assert "copy.png" in problems


def test_copies_within_a_class_are_told(own):
    (own / "ant" / "9.png").write_bytes((own / "ant" / "0.png").read_bytes())
    report = check_data(DataConfig("folders", own))
    both = report.problems + report.notes
    assert any("9.png" in text for text in both)


def test_one_single_class(own):
    for name in ("bee", "cat"):
        shutil.rmtree(own / name)
    (problem,) = check_data(DataConfig("folders", own)).problems
    assert "there must be at least 2 classes to tell apart" in problem
    with pytest.raises(ValueError, match="at least 2 classes to tell apart"):
        load_task(DataConfig("folders", own))


def test_names_that_are_no_utf8(own, tmp_path):
    raw = os.fsdecode(b"d\xffg")
    try:
        (own / "cat").rename(own / raw)
    except OSError:
        pytest.skip("this file system takes no such names")
    (own / raw / "1.png").rename(own / raw / os.fsdecode(b"\xfe.png"))
    config = DataConfig("folders", own, cache=tmp_path / "cache", image_size=16)
    task = load_task(config)
    assert task.class_names == ("ant", "bee", r"d\xffg")
    assert check_data(config).problems == ()
    (own / raw / os.fsdecode(b"\xfe.png")).write_text("no image")
    shown = CliRunner().invoke(app, ["data", "check", "folders", str(own)])
    assert shown.exit_code == 1
    assert r"d\xffg/\xfe.png is not a readable image" in shown.stdout
    with pytest.raises(ValueError, match=r"d\\xffg/\\xfe\.png is not a readable image"):
        load_task(config)
    shutil.rmtree(own / raw)
    _images(own / raw, 1)
    with pytest.raises(ValueError, match=r"needs at least 2 images, .*: d\\xffg has one"):
        _listing(own)


def test_commands_tell_what_is_skipped(own, tmp_path, monkeypatch):
    monkeypatch.setenv("BIDO_EXT_CACHE", str(tmp_path / "cache"))
    (own / "ant" / "a.heic").write_bytes(b"")
    command = ["train", "--preset", "smoke", "--dataset", "folders", "--data", str(own)]
    command += ["--batch-size", "500", "--out", str(tmp_path / "x")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "bido: note: skipped 1 files that end in .heic" in result.stderr
    assert "DataNote" not in result.stderr


def test_a_folder_without_its_data_set(own):
    for preset, message in (
        (
            "quick",
            "train-images-idx3-ubyte is missing; is it another data set? name it with --data",
        ),
        ("smoke", "--data is of no use to 'synthetic', which is drawn on the spot"),
    ):
        command = ["train", "--preset", preset, "--data", str(own), "--out", str(own / "x")]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2
        assert message in result.stderr
        assert "download" not in result.stderr


@pytest.mark.parametrize("option", ["--crop", "--public-data"])
def test_options_without_influence_are_refused(tmp_path, option):
    command = ["train", "--preset", "smoke", option, "9", "--out", str(tmp_path / "x")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert f"{option} is of no use to 'synthetic'" in result.stderr

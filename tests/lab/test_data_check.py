# SPDX-License-Identifier: Apache-2.0
"""``bido data check``: what is counted, and what counts as a problem."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.lab.data import DataConfig
from bido_ext.lab.data.check import check_data
from bido_ext.lab.data.small_data import write_small


def bido(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def celeba(tmp_path):
    return write_small("celeba", tmp_path / "celeba", classes=3, images=8, public=12)


def test_good_data(celeba):
    report = check_data(DataConfig("celeba", celeba))
    assert report.problems == ()
    assert report.counts == {"train": 21, "test": 3, "public": 12}
    assert (report.num_classes, report.images_per_class) == (3, (7, 7))
    assert report.image_sizes == {"178 x 218": 36}
    assert report.identities_known
    assert report.published["train"] == 27_018
    own = write_small("folders", celeba.parent / "own", classes=2, images=3)
    assert check_data(DataConfig("folders", own)).problems == ()


def test_unreadable_and_shared_images(celeba):
    images = celeba / "img_align_celeba"
    whole = (images / "000002.jpg").read_bytes()
    (images / "000002.jpg").write_bytes(whole[: len(whole) // 2])
    shutil.copy(images / "000001.jpg", images / "000030.jpg")  # a private picture among the public
    problems = check_data(DataConfig("celeba", celeba)).problems
    assert len(problems) == 2
    assert "000002.jpg is not a readable image" in problems[0]
    assert "public image" in problems[1]
    assert "000030.jpg has the very bytes of training image" in problems[1]
    assert check_data(DataConfig("celeba", celeba), quick=True).problems == ()


def test_shared_files_and_people(celeba):
    public = celeba / "ganset.txt"
    public.write_text(public.read_text() + "000001.png\n")
    lines = (celeba / "trainset.txt").read_text()
    (celeba / "trainset.txt").write_text(lines + "000008.png 0\n")  # an image of the test list
    problems = " | ".join(check_data(DataConfig("celeba", celeba), quick=True).problems)
    assert "private and public images share 1 files, as 000001.jpg" in problems
    assert "training and test images share 1 files, as 000008.jpg" in problems
    assert "1 private people of celeba are in the public set too, as 1" in problems


def test_shared_files_behind_links(celeba, tmp_path):
    thumbnails = write_small("ffhq", tmp_path / "ffhq", public=3)
    (thumbnails / "link.jpg").symlink_to(celeba / "img_align_celeba" / "000001.jpg")
    config = DataConfig("celeba", celeba, "ffhq", thumbnails)
    (problem,) = check_data(config, quick=True).problems
    assert problem == "private and public images share 1 files, as 000001.jpg"


def test_what_cannot_be_listed_is_the_one_problem(celeba):
    lines = (celeba / "trainset.txt").read_text()
    (celeba / "trainset.txt").write_text(lines + "000001.png 5\n")
    (problem,) = check_data(DataConfig("celeba", celeba)).problems
    assert "must be 0..n-1 with an image each, but 3 has no image" in problem


def test_command(celeba, tmp_path):
    result = bido("data", "check", "celeba", celeba, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["num_classes"] == 3
    assert "no problem found" in bido("data", "check", "celeba", celeba).stdout
    thumbnails = write_small("ffhq", tmp_path / "ffhq", public=3)
    both = ("data", "check", "celeba", celeba, "--public", "ffhq", "--public-data", thumbnails)
    assert json.loads(bido(*both, "--json").stdout)["counts"]["public"] == 3
    (celeba / "img_align_celeba" / "000001.jpg").write_text("no image")
    result = bido("data", "check", "celeba", celeba)
    assert result.exit_code == 1
    assert "problem" in result.stdout
    assert bido("data", "check", "faces", celeba).exit_code == 2


def test_public_only_data(celeba, tmp_path):
    thumbnails = write_small("ffhq", tmp_path / "ffhq", public=3)
    result = bido("data", "check", "ffhq", thumbnails)
    assert result.exit_code == 0, result.stderr
    assert "public  3 images" in result.stdout
    assert "size    128 x 128 pixels: 3 files" in result.stdout
    assert "classes" not in result.stdout
    assert "no problem found" in result.stdout
    next(thumbnails.rglob("*.png")).write_text("no image")
    result = bido("data", "check", "ffhq", thumbnails, "--json")
    assert result.exit_code == 1
    (problem,) = json.loads(result.stdout)["problems"]
    assert "is not a readable image" in problem
    assert bido("data", "check", "ffhq", thumbnails, "--quick").exit_code == 0
    result = bido("data", "check", "ffhq", tmp_path / "nowhere")
    assert (result.exit_code, "nowhere is none" in result.stdout) == (1, True)
    result = bido("data", "check", "ffhq")
    assert (result.exit_code, "FOLDER must name the folder of" in result.stderr) == (2, True)
    result = bido("data", "check", "ffhq", thumbnails, "--public", "celeba")
    assert (result.exit_code, "give a private data set, and --public ffhq" in result.stderr) == (
        2,
        True,
    )


def test_data_that_are_no_files():
    document = json.loads(bido("data", "check", "synthetic", "--json").stdout)
    assert document["num_classes"] == 5
    assert document["problems"] == []

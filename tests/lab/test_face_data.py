# SPDX-License-Identifier: Apache-2.0
"""Data sets of files: who is private, who is public, and what is refused."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from bido_ext.lab.data import DataConfig, ImageSet, load_task
from bido_ext.lab.data.listing import in_order
from bido_ext.lab.data.registry import listings
from bido_ext.lab.data.small_data import write_small
from bido_ext.lab.data.task import stratified
from bido_ext.lab.experiments.attacking import PublicSet
from bido_ext.lab.experiments.pipeline import LabData

LFW = os.environ.get("BIDO_LFW_ZIP") or (
    Path(__file__).resolve().parents[3] / "shared/data/lfwcrop64.zip"
)


def _task(name, root, tmp_path, **more):
    return load_task(DataConfig(name, root, cache=tmp_path / "cache", **more))


@pytest.fixture
def celeba(tmp_path):
    return write_small("celeba", tmp_path / "celeba", classes=3, images=8, public=12)


def test_celeba_by_its_lists(celeba, tmp_path):
    task = _task("celeba", celeba, tmp_path)
    assert task.num_classes == task.judge_classes == 3
    assert (len(task.train), len(task.val), len(task.test), len(task.public)) == (18, 3, 3, 12)
    assert task.train.shape == (3, 64, 64)
    assert torch.bincount(task.train.labels).tolist() == [6, 6, 6]
    assert len(task.judge_train) == 21
    # Lists name .png, the folder holds .jpg.
    assert (celeba / "trainset.txt").read_text().startswith("000001.png 0\n")
    assert listings(DataConfig("celeba", celeba))[0].train.paths[0].name == "000001.jpg"


def test_celeba_by_identities(celeba, tmp_path):
    (celeba / "trainset.txt").unlink()
    lines = (celeba / "identity_CelebA.txt").read_text()
    (celeba / "identity_CelebA.txt").write_text(lines + "900001.jpg 77\n")  # not downloaded
    private, public = listings(DataConfig("celeba", celeba))
    assert private is public
    assert len(private.class_names) == 6, "fewer than 1000 people: all of them are private"
    assert private.class_names == ("1", "2", "3", "4", "5", "6")
    assert not set(private.train.paths) & set(private.test.paths)
    assert len(private.public) == 0


def test_the_most_frequent_people_are_private(celeba, monkeypatch):
    for name in ("trainset.txt", "testset.txt", "ganset.txt"):
        (celeba / name).unlink()
    monkeypatch.setattr("bido_ext.lab.data.celeba.NUM_IDENTITIES", 2)
    private, public = listings(DataConfig("celeba", celeba))
    assert private.class_names == ("1", "2")
    assert (len(private.train), len(private.test)) == (14, 2)
    assert set(public.public.identities) == {"3", "4", "5", "6"}
    assert len(public.public) == 8 + 12


def test_lists_that_do_not_fit_are_refused(celeba):
    config, train = DataConfig("celeba", celeba), celeba / "trainset.txt"
    good = train.read_text()
    for line, message in (
        ("000001.png", r"line 22: expected \"name label\", got '000001.png'"),
        ("000001.png one", "line 22: the label must be a number, got 'one'"),
        ("000009.png 7", "must be 0..n-1 with an image each, but 3 has no image"),
        ("999999.png 0", r"trainset.txt names 999999.png, of which there is no .png or .jpg"),
    ):
        train.write_text(good + line + "\n")
        with pytest.raises(ValueError, match=message):
            listings(config)
    train.write_text(good)
    (celeba / "testset.txt").write_text("000001.jpg 9\n")
    with pytest.raises(ValueError, match="has label 9, trainset.txt has not"):
        listings(config)
    (celeba / "testset.txt").unlink()
    (celeba / "identity_CelebA.txt").unlink()
    with pytest.raises(ValueError, match="must hold trainset.txt, testset.txt, ganset.txt or iden"):
        listings(config)


def test_lfw_people_with_twenty_images_are_private(tmp_path):
    root = write_small("lfw", tmp_path / "lfw", classes=2, images=70, public=8)
    private, public = listings(DataConfig("lfw", root))
    assert private.class_names == ("Person_00", "Person_01")
    assert (len(private.train), len(private.test)) == (2 * 48, 2 * 12), "60 at most, 80/20"
    assert set(public.public.identities) == {"Person_02", "Person_03"}
    assert not set(private.train.paths) & set(private.test.paths)
    again = listings(DataConfig("lfw", root))[0]
    other = listings(DataConfig("lfw", root, seed=1))[0]
    assert again == private
    assert other.train.paths != private.train.paths
    inner = listings(DataConfig("lfw", root / "lfwcrop64"))[0]
    assert inner == private


def test_facescrub_actors_with_ffhq_as_public_set(tmp_path):
    root = write_small("facescrub", tmp_path / "fs", classes=3, images=10)
    thumbnails = write_small("ffhq", tmp_path / "ffhq", public=9)
    task = _task("facescrub", root, tmp_path, public="ffhq", public_root=thumbnails, image_size=32)
    assert (task.num_classes, len(task.public), len(task.test)) == (3, 9, 3)
    assert task.public.shape == task.train.shape == (3, 32, 32)


def test_private_images_never_become_public_ones(tmp_path):
    root = write_small("facescrub", tmp_path / "fs", classes=3, images=10)
    task = _task("facescrub", root, tmp_path)
    assert (len(task.train), len(task.public)) == (24, 0)
    with pytest.raises(ValueError, match=r"facescrub has no public images; name another set with"):
        PublicSet.of(LabData("facescrub", task.digest, task))
    with pytest.raises(ValueError, match="private and public images must be others, 30 are both"):
        _task("facescrub", root, tmp_path, public="facescrub", public_root=root)
    other = write_small("facescrub", tmp_path / "other", classes=1, images=5)
    task = _task("facescrub", root, tmp_path, public="facescrub", public_root=other)
    assert len(task.public) == 5


def test_one_file_by_two_paths_is_one_file(tmp_path, monkeypatch):
    root = write_small("facescrub", tmp_path / "fs", classes=3, images=10)
    (tmp_path / "link").symlink_to(root)
    (tmp_path / "thumbnails").mkdir()
    (tmp_path / "thumbnails" / "1.png").symlink_to(next(root.rglob("*.*g")))
    monkeypatch.chdir(tmp_path)
    for public_root, both in ((Path("fs"), 30), (tmp_path / "link", 30)):
        with pytest.raises(ValueError, match=f"private and public .* others, {both} are both"):
            _task("facescrub", root, tmp_path, public="facescrub", public_root=public_root)
    config = {"public": "ffhq", "public_root": tmp_path / "thumbnails"}
    with pytest.raises(ValueError, match="private and public images must be others, 1 are both"):
        _task("facescrub", root, tmp_path, **config)


def test_no_training_image_is_a_test_image(celeba, tmp_path):
    lines = (celeba / "trainset.txt").read_text()
    (celeba / "trainset.txt").write_text(lines + "000008.png 0\n")
    with pytest.raises(
        ValueError, match=r"training and test images must be others, 1 are both, as .*000008\.jpg"
    ):
        _task("celeba", celeba, tmp_path)


def test_own_folders_and_numeric_names(tmp_path):
    root = write_small("folders", tmp_path / "own", classes=11, images=3)
    for i, folder in enumerate(sorted(root.iterdir())):
        folder.rename(root / str(i))
    private, _ = listings(DataConfig("folders", root))
    assert private.class_names[2] == "2"
    assert private.class_names[10] == "10"
    assert in_order(["10", "9", "a"]) == ["10", "9", "a"]
    (root / "0" / next((root / "0").iterdir()).name).unlink()
    (root / "0" / next((root / "0").iterdir()).name).unlink()
    with pytest.raises(
        ValueError, match="needs at least 2 images, to train and to test: 0 has one"
    ):
        listings(DataConfig("folders", root))


def test_cifar10_private_and_public_classes(tmp_path):
    root = write_small("cifar10", tmp_path / "c", images=10)
    task = _task("cifar10", root, tmp_path)
    assert (task.num_classes, task.judge_classes) == (5, 10)
    assert sorted(task.train.labels.unique().tolist()) == [0, 1, 2, 3, 4]
    assert (len(task.train) + len(task.val), len(task.test)) == (5 * 5 * 2, 5 * 2)
    assert len(task.public) == 6 * 5 * 2
    assert task.judge_train.labels.max() == 9
    assert _task("cifar10", root, tmp_path, image_size=64).train.shape == (3, 64, 64)


class _Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_cifar10_files_run_no_code(tmp_path):
    root = write_small("cifar10", tmp_path / "c")
    batch = root / "cifar-10-batches-py" / "test_batch"
    batch.write_bytes(pickle.dumps({"data": _Touch(tmp_path / "owned")}))
    with pytest.raises(ValueError, match="test_batch is not a readable batch of CIFAR-10"):
        _task("cifar10", root, tmp_path)
    assert not (tmp_path / "owned").exists()
    batch.write_bytes(pickle.dumps({"data": np.zeros((2, 4), np.uint8), "labels": [0, 1]}))
    with pytest.raises(ValueError, match=r"no batch of CIFAR-10: its images are \(2, 4\)"):
        _task("cifar10", root, tmp_path)
    batch.unlink()
    with pytest.raises(ValueError, match="must hold cifar-10-batches-py of CIFAR-10, there is no"):
        _task("cifar10", root, tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"private": "faces"}, "data set must be one of mnist, .* got 'faces'"),
        ({"private": "ffhq"}, "'ffhq' has no private part"),
        ({"private": "mnist", "public": "ffhq"}, "'mnist' takes no other public data set"),
        ({"private": "lfw"}, "--data must name the folder of the data set 'lfw'"),
        ({"private": "lfw", "root": Path("nowhere")}, "--data must be a folder, nowhere is none"),
    ],
)
def test_bad_choices(config, message):
    with pytest.raises(ValueError, match=message):
        load_task(DataConfig(**config))


def test_a_public_set_is_needed(tmp_path):
    root = write_small("celeba", tmp_path / "c", public=12)
    with pytest.raises(ValueError, match="--public-data must name the folder of .*'ffhq'"):
        load_task(DataConfig("celeba", root, "ffhq"))


def test_validation_images_come_from_every_class():
    labels = torch.tensor([0] * 20 + [1] * 4 + [2])
    held_out = stratified(labels, 0.1, 0)
    assert torch.bincount(labels[held_out], minlength=3).tolist() == [2, 1, 0]
    with pytest.raises(ValueError, match="val_fraction must lie between 0 and 1, got 1"):
        stratified(labels, 1.0, 0)
    with pytest.raises(ValueError, match="no private class has a training image to spare"):
        stratified(torch.tensor([0, 1]), 0.5, 0)


@pytest.mark.skipif(not Path(LFW).is_file(), reason="no LFW: give BIDO_LFW_ZIP=lfwcrop64.zip")
def test_real_lfw(tmp_path):
    with zipfile.ZipFile(LFW) as archive:
        archive.extractall(tmp_path)
    private, public = listings(DataConfig("lfw", tmp_path))
    assert len(private.class_names) == 62
    assert len(public.public) == 10_210
    assert len(set(public.public.identities)) == 5749 - 62
    assert not set(public.public.identities) & set(private.class_names)
    per_class = np.bincount(private.train.labels) + np.bincount(private.test.labels)
    assert (per_class.min(), per_class.max()) == (20, 60)
    folder = private.train.paths[0].parent
    few = write_small("folders", tmp_path / "few", classes=2, images=4)
    folder.rename(few / folder.name)  # real faces through the whole path, few for speed
    task = _task("folders", few, tmp_path)
    assert task.train.shape == (3, 64, 64)
    assert 0.2 < float(ImageSet.of(task.train).only([0]).tensors[0].mean()) < 0.8

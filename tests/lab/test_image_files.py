# SPDX-License-Identifier: Apache-2.0
"""Image files: decoded, cropped, cached, and named where they cannot be used."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from bido_ext.lab.data import image_cache
from bido_ext.lab.data.decode import Preparation, read_image
from bido_ext.lab.data.image_cache import decoded
from bido_ext.lab.data.image_set import ImageSet


def _save(path, height=218, width=178):
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path in paths:
        _save(path, 40, 40)
    return paths


def test_the_middle_of_celeba_is_cut_at_55_and_35(tmp_path):
    pixels = _save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png", Preparation(108, crop=108))
    expected = pixels[55 : 55 + 108, 35 : 35 + 108].transpose(2, 0, 1)
    np.testing.assert_array_equal(found, expected)
    small = read_image(tmp_path / "a.png", Preparation(64, crop=108))
    assert small.shape == (3, 64, 64)


def test_without_a_crop_the_largest_square_is_taken(tmp_path):
    pixels = _save(tmp_path / "a.png", 20, 30)
    found = read_image(tmp_path / "a.png", Preparation(20))
    np.testing.assert_array_equal(found, pixels[:, 5:25].transpose(2, 0, 1))
    Image.fromarray(pixels[:, :, 0]).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png", Preparation(20)).shape == (3, 20, 20)
    assert read_image(tmp_path / "a.png", Preparation(20, channels=1)).shape == (1, 20, 20)


def test_unusable_files_are_named(tmp_path):
    _save(tmp_path / "a.png", 64, 64)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("cut.png", "text.jpg"):
        with pytest.raises(ValueError, match=rf"{name} is not a readable image"):
            read_image(tmp_path / name, Preparation(16))
    with pytest.raises(ValueError, match=r"a\.png has 64 x 64 pixels, the crop of 108 does not"):
        read_image(tmp_path / "a.png", Preparation(64, crop=108))


def test_files_are_decoded_once(files, tmp_path, monkeypatch):
    cache, preparation = tmp_path / "cache", Preparation(16)
    images, digest = decoded(files, preparation, cache)
    assert (images.shape, images.dtype) == ((5, 3, 16, 16), torch.uint8)
    np.testing.assert_array_equal(images[3].numpy(), read_image(files[3], preparation))
    monkeypatch.setattr(image_cache, "read_image", None)
    again, same = decoded(files, preparation, cache)
    assert same == digest
    assert torch.equal(again, images)
    again[0] = 0  # a copy in memory, not the file
    assert torch.equal(decoded(files, preparation, cache)[0], images)


def test_changed_files_and_other_sizes_are_decoded_again(files, tmp_path):
    cache, preparation = tmp_path / "cache", Preparation(16)
    _, digest = decoded(files, preparation, cache)
    _save(files[0].with_name("other-name.png"), 40, 40)
    os.replace(files[0].with_name("other-name.png"), files[0])
    _, other = decoded(files, preparation, cache)
    assert other != digest
    assert decoded(files, Preparation(32), cache)[0].shape[-1] == 32
    assert len(list(cache.glob("*.npy"))) == 3


@pytest.mark.parametrize("damage", ["cut", "no facts", "other facts", "bad json"])
def test_a_damaged_cache_is_made_anew(files, tmp_path, damage):
    cache, preparation = tmp_path / "cache", Preparation(16)
    images, digest = decoded(files, preparation, cache)
    images = images.clone()
    (array,), (about,) = cache.glob("*.npy"), cache.glob("*.json")
    if damage == "cut":
        array.write_bytes(array.read_bytes()[:200])
    elif damage == "no facts":
        about.unlink()
    else:
        about.write_text(json.dumps([1]) if damage == "other facts" else "{")
    again, same = decoded(files, preparation, cache)
    assert same == digest
    assert torch.equal(again, images)


def test_a_failed_decoding_leaves_nothing(files, tmp_path):
    files[2].write_text("no image")
    with pytest.raises(ValueError, match=r"2\.png is not a readable image"):
        decoded(files, Preparation(16), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))
    with pytest.raises(ValueError, match=r"absent\.png cannot be read"):
        decoded([tmp_path / "absent.png"], Preparation(16), tmp_path / "cache")


def test_a_full_disk_is_told_before_it_is_full(files, tmp_path, monkeypatch):
    monkeypatch.setattr(
        image_cache.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10})
    )
    with pytest.raises(ValueError, match="decoded images take 0 MiB in .*set BIDO_EXT_CACHE"):
        decoded(files, Preparation(16), tmp_path / "cache")


def test_image_set_hands_out_floats():
    pixels = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 0, 1, 2, 2])
    images = ImageSet(pixels, labels, torch.tensor([5, 0, 1, 2]))
    assert (len(images), images.shape) == (4, (3, 4, 4))
    assert images.labels.tolist() == [2, 0, 1, 0]
    torch.testing.assert_close(images.batch(torch.tensor([1])), pixels[:1].float() / 255)
    assert torch.equal(images.only([0]).labels, torch.tensor([0, 0]))
    torch.testing.assert_close(
        images.subset(torch.tensor([3])).tensors[0], pixels[2:3].float() / 255
    )
    assert [len(y) for _, y in images.batches(3)] == [3, 1]
    assert len(ImageSet(pixels, None).tensors) == 1
    with pytest.raises(ValueError, match="public images have none"):
        _ = ImageSet(pixels, None).labels
    floats = torch.rand(2, 1, 4, 4)
    assert torch.equal(ImageSet.of(TensorDataset(floats)).tensors[0], floats)
    with pytest.raises(ValueError, match="of uint8 or float32, got"):
        ImageSet(floats.double(), None)
    with pytest.raises(ValueError, match="got 3 for 2 images"):
        ImageSet(floats, torch.zeros(3))

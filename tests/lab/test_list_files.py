# SPDX-License-Identifier: Apache-2.0
"""List files of data sets: encodings, labels and names, each error with its file and line."""

import pytest
from PIL import Image

from bido_ext.lab.data import DataConfig
from bido_ext.lab.data.check import check_data
from bido_ext.lab.data.registry import listings
from bido_ext.lab.data.small_data import write_small


def _listing(root, name):
    return listings(DataConfig(name, root))[0]


@pytest.fixture
def celeba(tmp_path):
    return write_small("celeba", tmp_path / "celeba", classes=3, images=8, public=12)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_with_a_byte_order_mark(celeba, encoding):
    plain = _listing(celeba, "celeba")
    for name in ("trainset.txt", "testset.txt", "ganset.txt", "identity_CelebA.txt"):
        (celeba / name).write_text((celeba / name).read_text(), encoding=encoding)
    assert _listing(celeba, "celeba") == plain


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "000001.jpg 0\ncafé.jpg 0\n".encode("latin-1"),
            "trainset.txt line 2 is not UTF-8 text; sa",
        ),
        (
            "000001.jpg 0\n".encode("utf-16-le"),
            "trainset.txt holds zero bytes, as UTF-16 does; save",
        ),
        (b"\xff\xfe0\xd8", "trainset.txt line 1 is not UTF-16 text"),
        (
            b"000001.jpg 1\n000009.jpg 2\n",
            "labels in trainset.txt must be 0..n-1 with an image each, but they start at 1; subtract",
        ),
        (b"000001.jpg 0\n000002.jpg 0\n", "at least 2 classes to tell apart, trainset.txt has 1"),
    ],
)
def test_lists_in_other_encodings_and_from_1_are_named(celeba, content, message):
    (celeba / "trainset.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        _listing(celeba, "celeba")
    assert message in check_data(DataConfig("celeba", celeba)).problems[0]


def test_lists_of_identities_are_checked(celeba):
    path = celeba / "identity_CelebA.txt"
    good = path.read_text()
    for line, message in (
        (
            "900001.jpg Ann",
            r"identity_CelebA\.txt line 37: the identity must be a number, got 'Ann'",
        ),
        ("000001.jpg 3", r"line 37: 000001\.jpg has an identity already, another than 3"),
        ("000001.jpg", r"line 37: expected \"name identity\", got '000001.jpg'"),
    ):
        path.write_text(good + line + "\n")
        with pytest.raises(ValueError, match=message):
            _listing(celeba, "celeba")


def test_one_name_of_two_files(celeba):
    images = celeba / "img_align_celeba"
    Image.new("RGB", (178, 218)).save(images / "000001.jpeg")
    with pytest.raises(ValueError, match=r"names 000001\.png, which may be 000001\.jp.*remove one"):
        _listing(celeba, "celeba")
    for name in ("trainset.txt", "testset.txt", "ganset.txt"):
        path = celeba / name
        path.write_text(path.read_text().replace(".png", ".jpg"))
    assert _listing(celeba, "celeba").train.paths[0].name == "000001.jpg"

# SPDX-License-Identifier: Apache-2.0
"""The comparison picture: what stands where, and in which frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import LabelReader, images_of

from bido_ext.lab.judging import PrivateReference, pictures, save_comparison
from bido_ext.lab.judging.pictures import _LINE, MISSED, RECOGNISED


@pytest.fixture
def reference() -> PrivateReference:
    labels = torch.arange(3).repeat(4)
    return PrivateReference.of(LabelReader(), images_of(labels), labels)


def colours(path) -> set[tuple[int, int, int]]:
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    return {tuple(map(int, pixel)) for pixel in np.unique(pixels, axis=0)}


def test_frames_tell_recognised_from_missed(tmp_path, reference):
    shown = images_of(torch.arange(3).repeat(2, 1))
    path = save_comparison(tmp_path / "new" / "a.png", LabelReader(), shown, [0, 1, 2], reference)
    assert RECOGNISED in colours(path)
    assert MISSED not in colours(path)
    shown[1, 2] = images_of(torch.tensor(9))
    save_comparison(path, LabelReader(), shown, [0, 1, 2], reference)
    assert {RECOGNISED, MISSED} <= colours(path)
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]  # nothing half-written left


def test_a_wider_picture_shows_more_restarts_up_to_the_limit(tmp_path, reference):
    def width(restarts: int, shown: int) -> int:
        images = images_of(torch.arange(3).repeat(restarts, 1))
        path = tmp_path / "a.png"
        save_comparison(path, LabelReader(), images, [0, 1, 2], reference, shown=shown)
        return Image.open(path).width

    assert width(2, 8) < width(5, 8) == width(9, 5)


def test_classes_beyond_the_limit_are_counted_not_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_CLASSES", 2)
    labels = torch.arange(4).repeat(4)
    reference = PrivateReference.of(LabelReader(), images_of(labels), labels)
    heights = []
    for count in (1, 2, 4):
        path = tmp_path / f"{count}.png"
        images = images_of(torch.arange(count).repeat(2, 1))
        save_comparison(path, LabelReader(), images, list(range(count)), reference)
        heights.append(Image.open(path).height)
    assert heights[1] == 2 * heights[0]
    assert heights[2] == heights[1] + _LINE  # the line that says how many are missing


def test_a_class_without_private_images_is_named(tmp_path, reference):
    with pytest.raises(ValueError, match="7 has no private image"):
        save_comparison(
            tmp_path / "a.png", LabelReader(), images_of(torch.tensor([[7]])), [7], reference
        )

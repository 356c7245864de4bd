# SPDX-License-Identifier: Apache-2.0
"""Two judges: their accuracies, where they disagree, and what is refused."""

from __future__ import annotations

import pytest
import torch
from stand_ins import LabelReader, images_of
from torch import nn

from bido_ext.lab.judging import check_second, second_opinion


class Blind(nn.Module):
    """Labels images as the reader does, but never sees label 1."""

    def forward(self, x):
        logits = LabelReader()(x)
        logits[:, 1] = -10
        return logits


def test_shares_and_kappa_by_hand():
    # Two restarts of three classes; the first judge is right but for one image.
    images = images_of(torch.tensor([[0, 1, 2], [0, 1, 5]]))
    found = second_opinion(LabelReader(), Blind(), images, [0, 1, 2])
    assert found.attack_accuracy == pytest.approx(3 / 6)
    assert (found.both, found.only_second) == (pytest.approx(3 / 6), 0)
    assert found.only_first == found.disagreement == pytest.approx(2 / 6)
    by_chance = 5 / 6 * 3 / 6 + 1 / 6 * 3 / 6
    assert found.kappa == pytest.approx((4 / 6 - by_chance) / (1 - by_chance))
    assert found.identity_ci_low == 0  # the class that it never sees
    assert found.identity_ci_high == 1


def test_equal_judges_agree():
    images = images_of(torch.tensor([[0, 1, 3]]))
    found = second_opinion(LabelReader(), LabelReader(), images, [0, 1, 2])
    assert (found.disagreement, found.kappa) == (0, 1)
    alike = second_opinion(LabelReader(), LabelReader(), images[:, :2], [0, 1])
    assert alike.kappa is None, "one verdict throughout"


def test_bad_arguments():
    images = images_of(torch.tensor([[0, 1]]))
    with pytest.raises(ValueError, match="one column for each of the 3 classes"):
        second_opinion(LabelReader(), LabelReader(), images, [0, 1, 2])
    with pytest.raises(ValueError, match=r"classes must lie in 0\.\.9"):
        second_opinion(LabelReader(), LabelReader(), images, [0, 10])
    with pytest.raises(ValueError, match="another architecture than the first"):
        check_second("scnn", "scnn", "file.pt")

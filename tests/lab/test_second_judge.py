# SPDX-License-Identifier: Apache-2.0
"""Two judges: their accuracies, where they disagree, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from stand_ins import LabelReader, images_of
from torch import nn
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.lab.attacks import Reconstructions
from bido_ext.lab.attacks.reconstructions import save_reconstructions
from bido_ext.lab.judging import check_second, second_opinion
from bido_ext.lab.models import build_model
from bido_ext.lab.models.checkpoint import save_model


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


def test_evaluate_tells_both(tmp_path):
    """Reconstructions that are noise and private images, judged from the command line."""
    images = torch.rand(4, 5, 1, 32, 32)
    found = Reconstructions(images, torch.zeros(4, 5, 2), list(range(5)), torch.ones(4, 5))
    made = tmp_path / "reconstructions.pt"
    save_reconstructions(found, {}, made)
    files = {}
    for name, arch in (("first", "scnn"), ("second", "mcnn"), ("same", "scnn")):
        files[name] = tmp_path / f"{name}.pt"
        torch.manual_seed(len(files))
        save_model(files[name], build_model(arch, 10), arch, 10, "none", {})

    def evaluate(second, *more):
        line = ["evaluate", str(made), "--preset", "smoke", "--evaluator", str(files["first"])]
        return CliRunner().invoke(app, [*line, "--second-judge", str(second), *more])

    told = evaluate(files["second"], "--json")
    assert told.exit_code == 0, told.stderr
    document = json.loads(told.stdout)
    second = document["second_judge"]
    assert second["arch"] == "mcnn"
    shares = second["both"] + second["only_second"]
    assert second["attack_accuracy"] == pytest.approx(shares)
    assert document["attack_accuracy"] == pytest.approx(second["both"] + second["only_first"])
    text = evaluate(files["second"]).stdout
    assert "second judge" in text
    assert "they disagree on" in text
    refused = evaluate(files["same"])
    assert refused.exit_code == 2
    assert "another architecture than the first" in refused.stderr

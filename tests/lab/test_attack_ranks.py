# SPDX-License-Identifier: Apache-2.0
"""An attack shared by several processes: the same outcome for any number of them, also when it was stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import attack_of_ranks as part
import pytest
import torch
from ranks import run_ranks
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.lab.attacks.reconstructions import load_reconstructions


@pytest.fixture(scope="module")
def alone() -> torch.Tensor:
    return part.search(0, 1, None)


@pytest.mark.slow
def test_two_ranks(alone: torch.Tensor, tmp_path: Path) -> None:
    """Two processes do all of this in a row; what went wrong is told by the place in the list."""
    begun_alone, stopped, leader = (
        tmp_path / name for name in ("begun_alone", "stopped", "leader")
    )
    leader.mkdir()
    assert part.search(0, 1, str(begun_alone), (2, 6)) == "stopped"
    assert torch.load(begun_alone / "latents.pt")["step"] == 4
    calls = [
        (part.search, None),
        (part.search, None, None, 1000),  # one large batch is cut in two
        (part.search, str(begun_alone)),
        (part.search, str(stopped), (1, 6)),  # in the second round, after its first checkpoint
        (part.search, str(stopped)),
        (part.search, str(stopped / "again"), (1, 6)),
        (part.leader_first, str(leader)),
        (part.errors_reach_all,),
    ]
    for rank, told in enumerate(run_ranks(part.in_a_row, 2, calls)):
        plain, cut, went_on, stop, resumed, stop_again, saw, error = told
        assert torch.equal(plain, alone)
        torch.testing.assert_close(cut, alone)
        assert torch.equal(went_on, alone)
        assert stop == stop_again == "stopped"
        assert torch.equal(resumed, alone)
        assert saw == [rank > 0]
        assert error == "of the leader"
    saved = torch.load(stopped / "again" / "latents.pt")
    assert (len(saved["done"]), saved["step"], len(saved["state"])) == (2, 4, 2)
    # Another number of ranks goes on after the last finished batches.
    assert torch.equal(part.search(0, 1, str(stopped / "again")), alone)


@pytest.mark.slow
def test_more_ranks_than_batches_are_left(alone: torch.Tensor) -> None:
    for latents in run_ranks(part.search, 3, None):
        assert torch.equal(latents, alone)


def test_attacks_of_several_searches(tmp_path: Path) -> None:
    """Those that do more than one search, or sample: the same outcome, PPDG-MI's copies found again."""
    names = ("ppdg", "if-gmi", "diffusion")
    calls = [(part.of_registry, name, str(tmp_path / name)) for name in names]
    shared = run_ranks(part.in_a_row, 2, calls)
    for place, name in enumerate(names):
        once = part.of_registry(0, 1, name, str(tmp_path / f"{name} alone"))
        for told in shared:
            for found, wanted in zip(told[place], once, strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_command_under_torchrun(tmp_path: Path) -> None:
    """LOMMA has a prior, students and a search: all three are shared."""
    common = ["--preset", "smoke", "--device", "cpu", "--json"]
    model = tmp_path / "t" / "model.pt"
    made = CliRunner().invoke(app, ["train", *common, "--out", str(model.parent)])
    assert made.exit_code == 0, made.stderr
    attack = ["attack", str(model), "--attack", "lomma", *common, "--set", "batch_size=4"]
    once = [*attack, "--prior", str(tmp_path / "g1"), "--out", str(tmp_path / "a1")]
    assert CliRunner().invoke(app, once).exit_code == 0
    shared = [*attack, "--prior", str(tmp_path / "g2"), "--out", str(tmp_path / "a2")]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    run = subprocess.run(
        [*launcher, "-m", "bido_ext", *shared], env=environment, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    document = json.loads(run.stdout)  # one rank speaks
    assert document["attack"] == "lomma"
    one, two = (load_reconstructions(tmp_path / a / "reconstructions.pt") for a in ("a1", "a2"))
    torch.testing.assert_close(two.images, one.images, rtol=1e-4, atol=1e-5)

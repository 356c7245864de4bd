# SPDX-License-Identifier: Apache-2.0
"""An attack shared by several processes: the same outcome for any number of them, also when it was stopped."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attack_of_ranks as part
import pytest
import torch
from preloaded import run_python
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


def under_torchrun(arguments: list[str]) -> str:
    """What `torchrun --nproc-per-node 2 -m bido_ext` prints."""
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    run = subprocess.run(
        [*launcher, "-m", "bido_ext", *arguments], env=environment, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


def as_under_torchrun(arguments: list[str]) -> str:
    """The same with the variables that torchrun sets, in forks of a process that has PyTorch."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip

    def rank(number: int) -> subprocess.CompletedProcess[str]:
        own = {"RANK": str(number), "LOCAL_RANK": str(number)}
        code = "import runpy; runpy.run_module('bido_ext', run_name='__main__')"
        return run_python(code, *arguments, env={**os.environ, **shared, **own})

    with ThreadPoolExecutor(2) as both:
        runs = list(both.map(rank, range(2)))
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr[-3000:]
    return "".join(run.stdout for run in runs)


@pytest.mark.parametrize(
    "start", [as_under_torchrun, pytest.param(under_torchrun, marks=pytest.mark.slow)]
)
def test_the_command_under_torchrun(tmp_path: Path, start: Callable[[list[str]], str]) -> None:
    """LOMMA has a prior, students and a search: all three are shared."""
    common = ["--preset", "smoke", "--device", "cpu", "--json"]
    model = tmp_path / "t" / "model.pt"
    made = CliRunner().invoke(app, ["train", *common, "--out", str(model.parent)])
    assert made.exit_code == 0, made.stderr
    attack = ["attack", str(model), "--attack", "lomma", *common, "--set", "batch_size=4"]
    once = [*attack, "--prior", str(tmp_path / "g1"), "--out", str(tmp_path / "a1")]
    assert CliRunner().invoke(app, once).exit_code == 0
    shared = [*attack, "--prior", str(tmp_path / "g2"), "--out", str(tmp_path / "a2")]
    document = json.loads(start(shared))  # one rank speaks
    assert document["attack"] == "lomma"
    one, two = (load_reconstructions(tmp_path / a / "reconstructions.pt") for a in ("a1", "a2"))
    torch.testing.assert_close(two.images, one.images, rtol=1e-4, atol=1e-5)

# SPDX-License-Identifier: Apache-2.0
"""Pictures of LayerSimilarity, and its sums over ranks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from similar_nets import COLUMNS, ROWS, batches, expected, net
from torch import nn

import bido_ext as bx


def test_plot_is_a_heat_map_that_is_saved_headless(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    model, (x,) = net(), batches(16)
    similarity = bx.LayerSimilarity(model, layers=["stem", "dead", "head"])
    similarity.update(x)
    figure = similarity.compute().plot(title="a net with itself", model="net", other="net")
    axes, bar = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["stem", "dead", "head"]
    assert axes.get_title() == "a net with itself"
    assert "CKA (unbiased)" in bar.get_ylabel()
    assert axes.images[0].origin == "lower"
    figure.savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_plot_of_many_layers_and_into_axes() -> None:
    figures = pytest.importorskip("matplotlib.figure")
    names = tuple(f"layer{i}" for i in range(120))
    matrix = torch.linspace(-0.1, 1, 240).double().view(2, 120)
    result = bx.SimilarityMatrix(matrix, ("a", "b"), names, "cka", "unbiased", 1, 8)
    figure = figures.Figure()
    ax = figure.add_subplot()
    assert result.plot(ax) is figure
    assert len(ax.get_xticklabels()) == 40
    assert (
        repr(result) == "SimilarityMatrix(cka, unbiased, 2 x 120 layers, 8 samples in 1 mini-batch)"
    )
    assert max(result.plot().get_size_inches()) < 12


def test_matplotlib_is_loaded_by_plot_alone() -> None:
    code = (
        "import sys, torch, bido_ext as bx\n"
        "s = bx.LayerSimilarity(torch.nn.Sequential(torch.nn.Linear(3, 2)))\n"
        "s.update(torch.randn(6, 3)); r = s.compute()\n"
        "assert not any(n.split('.')[0] in ('matplotlib', 'typer') for n in sys.modules)\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _rank(rank: int, world_size: int, case: str) -> dict[str, Any]:
    a, b, given = net(), net(1), batches(12, 9, 16, 7)
    if case == "wrapped":
        a = nn.parallel.DistributedDataParallel(a)  # type: ignore[assignment]
    layers = {"default": None, "others": ROWS if rank else COLUMNS}.get(case, ROWS)
    similarity = bx.LayerSimilarity(a, b, layers)
    mine = given[rank::world_size] if case != "default" else given if rank == 0 else []
    for x in mine:
        similarity.update(x)
    try:
        result = similarity.compute()
    except (ValueError, RuntimeError) as error:
        return {"error": str(error)}
    again = similarity.compute()
    torch.testing.assert_close(again.matrix, result.matrix, atol=0, rtol=0, equal_nan=True)
    own = similarity.compute(sync=False).batches if mine else 0
    return {"matrix": result.matrix, "batches": result.batches, "own": own, "layers": result.layers}


def test_ranks_give_the_matrix_of_all_batches() -> None:
    a, b, given = net(), net(1), batches(12, 9, 16, 7)
    truth = expected([a, b], [ROWS, ROWS], given)
    for case in ("plain", "wrapped"):
        first, second = run_ranks(_rank, 2, case)
        assert torch.equal(first["matrix"], second["matrix"])
        assert (first["batches"], first["own"]) == (4, 2)
        torch.testing.assert_close(first["matrix"], truth, atol=2e-6, rtol=0)


@pytest.mark.slow
def test_rank_without_batches_learns_the_layers() -> None:
    first, second = run_ranks(_rank, 2, "default")
    assert torch.equal(torch.nan_to_num(first["matrix"]), torch.nan_to_num(second["matrix"]))
    assert (second["batches"], second["own"]) == (4, 0)
    assert second["layers"] == ("stem", "body.1", "body.3", "head", "dead")


def test_ranks_with_other_layers_are_all_refused() -> None:
    assert all("other layers" in told["error"] for told in run_ranks(_rank, 2, "others"))

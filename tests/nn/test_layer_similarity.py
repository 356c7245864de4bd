# SPDX-License-Identifier: Apache-2.0
"""LayerSimilarity: all pairs of layers against the float64 textbook, over batches, models and ranks."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import features
from ranks import run_ranks
from torch import Tensor, nn

import bido_ext as bx
from bido_ext import reference


class Net(nn.Module):
    """Convolutions, a dead layer, a container, and an output that is no tensor."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Dropout(), nn.Conv2d(width, 4, 3)
        )
        self.twice = Twice()
        self.dead = nn.Linear(4 * 36, 5)
        nn.init.zeros_(self.dead.weight)
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        z, _ = self.twice(self.body(self.stem(x)).flatten(1))
        return self.head(z) + self.dead(z)[:, :3]


class Twice(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def net(seed: int = 0, width: int = 6, dtype: torch.dtype = torch.float32) -> Net:
    torch.manual_seed(seed)
    return Net(width).to(dtype)


def batches(*sizes: int, dtype: torch.dtype = torch.float32, seed: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 3, 8, 8, generator=generator, dtype=dtype) for n in sizes]


def gram(z: Tensor) -> Tensor:
    z = z.detach().double().flatten(1)
    return z @ z.T


def expected(
    models: Sequence[nn.Module], layers: Sequence[Sequence[str]], given: Sequence[Tensor],
    unbiased: bool = True,
) -> Tensor:  # fmt: skip
    """The textbook: HSIC of every pair in every batch in float64, averaged, then the ratio."""
    shape = [len(names) for names in layers]
    products, own = torch.zeros(shape).double(), [torch.zeros(n).double() for n in shape]
    for x in given:
        stacks = []
        for model, names in zip(models, layers, strict=True):
            with bx.FeatureTaps(model.eval(), names) as taps:
                model(x)
                stacks.append([gram(taps.features[name]) for name in names])
        for i, K in enumerate(stacks[0]):
            for j, L in enumerate(stacks[1]):
                products[i, j] += reference.hsic(K, L, unbiased)
        for stack, total in zip(stacks, own, strict=True):
            total += torch.stack([reference.hsic(K, K, unbiased) for K in stack])
    return products / (own[0].sqrt()[:, None] * own[1].sqrt())


ROWS, COLUMNS = ["stem", "body.1", "body.3", "head"], ["stem", "body.3", "head"]


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_models_against_the_textbook(dtype: torch.dtype, estimator: str) -> None:
    a, b, given = net(0, 6, dtype), net(1, 9, dtype), batches(16, 16, 7, 4, dtype=dtype)
    similarity = bx.LayerSimilarity(a, b, ROWS, COLUMNS, estimator=estimator)
    for x in given:
        similarity.update(x)
    result = similarity.compute()
    truth = expected([a, b], [ROWS, COLUMNS], given, estimator == "unbiased")
    assert result.matrix.dtype == torch.float64
    assert result.matrix.shape == (4, 3)
    assert float((result.matrix - truth).abs().max()) < (1e-11 if dtype == torch.float64 else 2e-6)
    assert (result.layers, result.other_layers) == (tuple(ROWS), tuple(COLUMNS))
    assert (result.batches, result.samples) == (4, 43)


def test_one_model_with_itself() -> None:
    model, given = net(), batches(12, 9)
    similarity = bx.LayerSimilarity(model, layers=ROWS)
    part = bx.LayerSimilarity(model, layers=ROWS, other_layers=COLUMNS)
    for x in given:
        similarity.update(x)
        part.update(x)
    matrix = similarity.compute().matrix
    torch.testing.assert_close(matrix.diagonal(), torch.ones(4).double())
    torch.testing.assert_close(matrix, matrix.T)
    truth = expected([model, model], [ROWS, ROWS], given)
    torch.testing.assert_close(matrix, truth, atol=2e-6, rtol=0)
    torch.testing.assert_close(part.compute().matrix, matrix[:, [0, 2, 3]])


def test_equals_cka_of_one_batch_with_any_kernel() -> None:
    a, b, (x,) = net(), net(1), batches(20)
    for kernel in (bx.Gaussian(2.0), bx.Gaussian("median"), bx.InverseMultiquadric()):
        similarity = bx.LayerSimilarity(a, b, ["stem", "head"], kernel=kernel)
        similarity.update(x)
        with bx.FeatureTaps(a, ["stem", "head"]) as ours, bx.FeatureTaps(b, ["head"]) as theirs:
            with torch.no_grad():
                a.eval()(x)
                b.eval()(x)
            z, w = ours.features["stem"].flatten(1), theirs.features["head"]
        want = float(bx.cka(z, w, kernel, kernel, estimator="unbiased"))
        assert float(similarity.compute().matrix[0, 1]) == pytest.approx(want, abs=2e-5)


def test_large_n_goes_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from bido_ext.nn import similarity_sums

    a, b, given = net(), net(1), batches(150)
    for estimator in ("unbiased", "biased"):
        matrices = []
        for numbers in (1 << 22, 4000, 1):
            monkeypatch.setattr(similarity_sums, "BLOCK_NUMBERS", numbers)
            similarity = bx.LayerSimilarity(a, b, ROWS, estimator=estimator)
            similarity.update(given[0])
            matrices.append(similarity.compute().matrix)
        for matrix in matrices[1:]:
            torch.testing.assert_close(matrix, matrices[0], atol=1e-12, rtol=0)


def test_unbiased_averages_do_not_depend_on_the_batch_size() -> None:
    torch.manual_seed(0)
    a, b = nn.Sequential(nn.Linear(4, 300)), nn.Sequential(nn.Linear(4, 300))
    x = torch.randn(2048, 4)  # fewer columns than samples in the small batches
    found: dict[tuple[str, int], float] = {}
    for estimator in ("unbiased", "biased"):
        for size in (8, 512):
            similarity = bx.LayerSimilarity(a, b, ["0"], estimator=estimator)
            for part in x.split(size):
                similarity.update(part)
            found[estimator, size] = float(similarity.compute().matrix)
    assert found["unbiased", 8] == pytest.approx(found["unbiased", 512], abs=0.02)
    assert found["biased", 8] == pytest.approx(found["unbiased", 512], abs=0.2)


def test_independent_layers_are_about_zero_and_biased_is_not() -> None:
    values = {}
    for estimator in ("unbiased", "biased"):
        similarity = bx.LayerSimilarity(
            nn.Sequential(nn.Identity()), nn.Sequential(nn.Identity()), ["0"], estimator=estimator
        )
        for seed in range(20):
            similarity.update(features(16, 400, seed=seed), torch.randn(16, 400).double())
        values[estimator] = float(similarity.compute().matrix)
    assert abs(values["unbiased"]) < 0.1
    assert values["biased"] > 0.15


def test_duplicate_rows_and_four_samples() -> None:
    a, b, (x,) = net(), net(1), batches(4)
    for given in (x, x.repeat(3, 1, 1, 1)):
        similarity = bx.LayerSimilarity(a, b, ROWS)
        similarity.update(given)
        truth = expected([a, b], [ROWS, ROWS], [given])
        torch.testing.assert_close(similarity.compute().matrix, truth, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernel", [bx.Linear(), bx.Gaussian(), bx.InverseMultiquadric()])
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_dead_layer_is_nan_and_leaves_the_others_alone(kernel: bx.Kernel, estimator: str) -> None:
    model, given = net(), batches(33, 64)
    names = ["stem", "dead", "head"]
    similarity = bx.LayerSimilarity(model, layers=names, estimator=estimator, kernel=kernel)
    for x in given:
        similarity.update(x)
    result = similarity.compute()
    nan = torch.isnan(result.matrix)
    assert nan[1].all()
    assert nan[:, 1].all()
    assert nan.sum() == 5
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert written["matrix"][1] == [None] * 3
    assert written["layers"] == names


def test_layer_dead_in_some_batches_counts_as_zero_there() -> None:
    model = nn.Sequential(nn.Identity())
    x, still = features(8, 5), features(1, 5).repeat(8, 1)
    both, one = bx.LayerSimilarity(model, layers=["0"]), bx.LayerSimilarity(model, layers=["0"])
    for batch in (x, still):
        both.update(batch)
    one.update(x)
    torch.testing.assert_close(both.compute().matrix, one.compute().matrix)


def test_hsic_is_the_average() -> None:
    model, given = net(), batches(12, 9)
    similarity = bx.LayerSimilarity(model, layers=["stem", "head"], measure="hsic")
    for x in given:
        similarity.update(x)
    total = torch.zeros(()).double()
    with bx.FeatureTaps(model, ["stem", "head"]) as taps:
        for x in given:
            model.eval()(x)
            total += reference.hsic(*(gram(z) for z in taps.features.values()), True)
    assert float(similarity.compute().matrix[0, 1]) == pytest.approx(float(total / 2), rel=1e-5)


def test_default_layers_are_those_that_give_features() -> None:
    model, (x,) = net(), batches(6)
    similarity = bx.LayerSimilarity(model)
    assert similarity.layers == ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the batch norm that ReLU changes in place is left out
        similarity.update(x)
    assert similarity.layers == ("stem", "body.1", "body.3", "head", "dead")
    assert similarity.other_layers == similarity.layers


def test_default_layers_open_the_body_and_containers() -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = net()
            self.head = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.network(x))

    similarity = bx.LayerSimilarity(Classifier(), net(1))
    similarity.update(*batches(6))
    assert similarity.layers[:2] == ("network.stem", "network.body.1")
    assert similarity.layers[-1] == "head"
    assert similarity.other_layers[0] == "stem"
    with pytest.raises(ValueError, match="no child of Twice"):
        bx.LayerSimilarity(Twice()).update(torch.randn(6, 3))


def test_default_layers_of_torchvision_models() -> None:
    models = pytest.importorskip("torchvision.models")
    similarity = bx.LayerSimilarity(models.resnet18())
    similarity.update(torch.randn(4, 3, 32, 32))
    blocks = [f"layer{i}.{j}" for i in range(1, 5) for j in range(2)]
    assert list(similarity.layers) == ["conv1", "relu", "maxpool", *blocks, "avgpool", "fc"]
    similarity = bx.LayerSimilarity(models.VisionTransformer(16, 8, 3, 2, 12, 24, num_classes=5))
    similarity.update(torch.randn(4, 3, 16, 16))
    assert [n for n in similarity.layers if n.startswith("encoder.layers")]


def test_selectors_names_modules_predicate_and_iterators() -> None:
    model, (x,) = net(), batches(6)
    by_name = bx.LayerSimilarity(model, layers=["stem", "head"])
    for layers in (
        [model.stem, model.head],
        lambda name, module: name in ("stem", "head"),
        iter(["stem", "head"]),
    ):
        similarity = bx.LayerSimilarity(model, layers=layers)
        assert similarity.layers == similarity.other_layers == ("stem", "head")
        similarity.update(x)
    by_name.update(x)
    torch.testing.assert_close(similarity.compute().matrix, by_name.compute().matrix)


def test_model_is_as_before() -> None:
    model, (x,) = net().train(), batches(6)
    model.body[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    similarity = bx.LayerSimilarity(model)
    similarity.update(x.requires_grad_())
    assert model.training
    assert model.body[0].training
    assert not model.body[2].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert x.grad is None
    assert not similarity.compute().matrix.requires_grad
    assert model(x).requires_grad


def test_batches_of_a_loader_mappings_and_calls() -> None:
    model, (x,) = net(), batches(6)
    results = []
    for batch, call in (
        (x, None),
        ([x, torch.zeros(6)], None),
        ({"x": x}, None),
        ({"image": x}, lambda m, b: m(b["image"])),
    ):
        similarity = bx.LayerSimilarity(model, layers=["stem", "head"], call=call)
        similarity.update(batch)
        results.append(similarity.compute().matrix)
    assert all(torch.equal(result, results[0]) for result in results)
    with pytest.raises(TypeError, match="give call=lambda"):
        bx.LayerSimilarity(model).update(3)


def test_reset_and_more_batches_after_compute() -> None:
    model, (x, y) = net(), batches(6, 9)
    similarity = bx.LayerSimilarity(model, layers=ROWS)
    similarity.update(x)
    first = similarity.compute()
    similarity.update(y)
    assert similarity.compute().batches == 2
    similarity.reset()
    with pytest.raises(RuntimeError, match="at least one update"):
        similarity.compute()
    similarity.update(x)
    assert torch.equal(similarity.compute().matrix, first.matrix)


def test_refuses_with_the_reason_and_keeps_the_sums() -> None:
    model, (x,) = net(), batches(8)
    similarity = bx.LayerSimilarity(model, layers=["stem", "head"])
    similarity.update(x)
    kept = similarity.compute().matrix
    with pytest.raises(ValueError, match=r"3 sample\(s\), at least 4.*drop_last"):
        similarity.update(x[:3])
    bad = x.clone()
    bad[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="layer.s. stem, head contains NaN or Inf"):
        similarity.update(bad)
    assert torch.equal(similarity.compute().matrix, kept)
    assert similarity.compute().batches == 1
    with pytest.raises(TypeError, match="'twice' returned tuple"):
        bx.LayerSimilarity(model, layers=["twice"]).update(x)
    with pytest.raises(ValueError, match="no layer 'hea'; did you mean head"):
        bx.LayerSimilarity(model, layers=["hea"])
    with pytest.raises(ValueError, match="same number of samples"):
        bx.LayerSimilarity(model, net(1), ["head"]).update(x, x[:5])
    with pytest.raises(ValueError, match="second model"):
        similarity.update(x, x)
    with pytest.raises(ValueError, match="measure must be one of cka, hsic"):
        bx.LayerSimilarity(model, measure="coco")
    with pytest.raises(ValueError, match="estimator must be"):
        bx.LayerSimilarity(model, estimator="debiased")
    with pytest.raises(TypeError, match="other must be a torch.nn.Module"):
        bx.LayerSimilarity(model, ["stem"])  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:FeatureTaps")
def test_layer_that_does_not_run_is_named() -> None:
    model = net()
    model.add_module("unused", nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"layer\(s\) unused did not run"):
        bx.LayerSimilarity(model, layers=["stem", "unused"]).update(*batches(6))
    similarity = bx.LayerSimilarity(model)
    similarity.update(*batches(6))
    assert "unused" not in similarity.layers


def test_compiled_model_is_looked_at_as_the_module_inside() -> None:
    model, (x,) = net(), batches(6)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    similarity, plain = (
        bx.LayerSimilarity(compiled, layers=ROWS),
        bx.LayerSimilarity(model, layers=ROWS),
    )
    similarity.update(x)
    plain.update(x)
    assert torch.equal(similarity.compute().matrix, plain.compute().matrix)


def test_half_precision_and_huge_features() -> None:
    model, (x,) = net(), batches(16)
    exact = bx.LayerSimilarity(model, layers=ROWS)
    exact.update(x)
    half = bx.LayerSimilarity(net().bfloat16(), layers=ROWS)
    half.update(x.bfloat16())
    torch.testing.assert_close(half.compute().matrix, exact.compute().matrix, atol=0.05, rtol=0)
    identity = nn.Sequential(nn.Identity())
    large, small = (bx.LayerSimilarity(identity, identity, ["0"]) for _ in range(2))
    large.update(
        1e17 * x.flatten(1), x.flatten(1).abs()
    )  # squares of its Gram matrix exceed float32
    small.update(x.flatten(1), x.flatten(1).abs())
    torch.testing.assert_close(large.compute().matrix, small.compute().matrix, atol=1e-6, rtol=0)


# Pictures.


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


# Ranks.


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


def test_rank_without_batches_learns_the_layers() -> None:
    first, second = run_ranks(_rank, 2, "default")
    assert torch.equal(torch.nan_to_num(first["matrix"]), torch.nan_to_num(second["matrix"]))
    assert (second["batches"], second["own"]) == (4, 0)
    assert second["layers"] == ("stem", "body.1", "body.3", "head", "dead")


def test_ranks_with_other_layers_are_all_refused() -> None:
    assert all("other layers" in told["error"] for told in run_ranks(_rank, 2, "others"))

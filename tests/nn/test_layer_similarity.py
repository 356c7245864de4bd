# SPDX-License-Identifier: Apache-2.0
"""LayerSimilarity: all pairs of layers against the float64 textbook, over batches and models."""

from __future__ import annotations

import json

import pytest
import torch
from oracle import features
from similar_nets import COLUMNS, ROWS, batches, expected, gram, net
from torch import nn

import bido_ext as bx
from bido_ext import reference
from bido_ext.nn.similarity_sums import CenteredGrams, sums_as_made
from bido_ext.ops.gram_stack import gram_stack
from bido_ext.ops.group import make_group


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


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("sigma", [1e-1, 1.0, 3e2])
def test_row_sums_taken_off_products_are_centering(sigma: float, unbiased: bool) -> None:
    # Of nearly constant Gram matrices (sigma 0.1: -1 off the diagonal), float32 beside float32 and float64. What
    # float64 loses is far below what float32 entries lost: 6e-8 of the matrix, of which little is left.
    torch.manual_seed(3)
    x, y = torch.randn(60, 5), torch.randn(60, 4)
    y[:, :3] += x[:, :3]
    kernels = [bx.Gaussian(sigma, scale_by_dim=False), bx.Linear()]
    groups = [make_group([x, y], kernels), make_group([x.double(), y.double()], kernels)]
    a, b = (centered(gram_stack(group), unbiased) for group in groups)
    scale = 60 * 57 if unbiased else 59**2
    off = 6e-8 * (gram_stack(groups[0]).square().sum((1, 2)).double() / a.square().sum(1)).sqrt()
    allowed = 1e-3 * float(off.max())
    for other, theirs in ((groups[0], a), (groups[1], b)):
        sums, lost = sums_as_made(
            CenteredGrams(groups[0], unbiased), CenteredGrams(other, unbiased)
        )
        assert bool(lost) == (sigma < 1 and unbiased)
        torch.testing.assert_close(sums.own * scale, a.square().sum(1), rtol=allowed, atol=0)
        size = torch.outer(sums.own, sums.other_own).sqrt() * scale
        assert float(((sums.products * scale - a @ theirs.T) / size).abs().max()) < allowed


def centered(stack: torch.Tensor, unbiased: bool) -> torch.Tensor:
    """Centered first, (m, n n) float64."""
    K, n = stack.double(), stack.shape[1]
    if not unbiased:
        K = K - K.mean(1, keepdim=True)
        return (K - K.mean(2, keepdim=True)).flatten(1)
    off = 1 - torch.eye(n).double()
    K = (K - (K * off).sum((1, 2), keepdim=True) / (n * (n - 1))) * off  # constants leave nothing
    K = K - (K.sum(1, keepdim=True) + K.sum(2, keepdim=True)) / (n - 2)
    return (K * off).flatten(1)


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


@pytest.mark.parametrize("far", [1e4, 1e6, 1e8])
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_far_sample_leaves_the_others_their_digits(far: float, estimator: str) -> None:
    """Unbiased values were off by 8e-5 of themselves, 1.7e-3, and NaN, or 0 for the batch beside another."""
    torch.manual_seed(0)
    x, y = torch.randn(20, 5), torch.randn(20, 5)
    x[3] *= far
    identity, layer = nn.Identity(), nn.Linear(5, 4)
    net = nn.Sequential(identity, layer)
    similarity = bx.LayerSimilarity(net, layers=["0", "1"], estimator=estimator)
    similarity.update(x)
    z = layer(x).detach()
    # From the last sample, which has no part in the unbiased estimate and none in centering.
    grams = [gram(v.double() - v[-1].double()) for v in (x, z)]
    truth = reference.cka(*grams, unbiased=estimator == "unbiased")
    assert abs(float(similarity.compute().matrix[0, 1] - truth)) < 1e-8
    similarity.update(y)
    both = similarity.compute().matrix
    wide = bx.LayerSimilarity(net.double(), layers=["0", "1"], estimator=estimator)
    wide.update(x.double())
    wide.update(y.double())
    assert float((both - wide.compute().matrix).abs().max()) < 2e-7


@pytest.mark.parametrize("scale", [1e22, 1e30, 1e36])
def test_squares_beyond_float32(scale: float) -> None:
    """CKA has no scale. Its Gram matrices of float32 features overflowed, and were refused."""
    torch.manual_seed(0)
    x, y = torch.randn(20, 5), torch.randn(20, 4)
    identity = nn.Sequential(nn.Identity())
    large, small = (bx.LayerSimilarity(identity, identity, ["0"]) for _ in range(2))
    large.update(scale * x, x + y[:, :1])
    small.update(x, x + y[:, :1])
    torch.testing.assert_close(large.compute().matrix, small.compute().matrix, atol=1e-6, rtol=0)


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

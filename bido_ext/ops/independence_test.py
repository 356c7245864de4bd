# SPDX-License-Identifier: Apache-2.0
"""Tests of independence: a measure of x and y against its distribution under independence.

permutation:  pvalue = (1 + #{b: null_b >= statistic}) / (1 + permutations),  null_b = d(x, y[p_b])
gamma:        the gamma distribution of Gretton et al. (2008), biased HSIC alone

Gram matrices are made once; a permutation only changes the order in which their products are summed
(:mod:`bido_ext.ops._permuted_sums`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bido_ext.ops._centered_gram import CenteredGram
from bido_ext.ops._gamma_null import GammaNull, gamma_test
from bido_ext.ops._permuted_sums import PermutedSums, permuted_sums
from bido_ext.ops._plan_arguments import check_count, check_workspace
from bido_ext.ops._validate import (
    check_choice,
    check_features,
    check_labels,
    check_num_classes,
    check_same_samples,
    is_labels,
)
from bido_ext.ops.bandwidth import Sigma
from bido_ext.ops.group import Group, make_group
from bido_ext.ops.hsic import ESTIMATORS
from bido_ext.ops.kernels import Energy, Gaussian, Kernel
from bido_ext.ops.measure import check_kernel
from bido_ext.ops.plan import DENSE_SHARE, FLOAT64_UP_TO, free_memory

MEASURES = ("hsic", "cka", "distance_covariance", "distance_correlation")
METHODS = ("permutation", "gamma")
#: Norms of Gram matrices whose products are float64 numbers with all their digits.
SMALLEST, LARGEST = 1e-140, 1e140


@dataclass(frozen=True)
class IndependenceTest:
    """The outcome of a test of independence.

    Attributes:
        statistic: The measure of x and y.
        pvalue: Probability of a statistic at least as large, if x and y are independent.
        null: For a permutation test, the statistic of each permutation: (permutations,) float64 on the CPU.
            For the gamma approximation, shape and scale of the gamma distribution of the statistic.
        form: How the permuted statistics were computed, in words.
    """

    statistic: float
    pvalue: float
    null: Tensor | GammaNull
    form: str

    def __repr__(self) -> str:
        """One line: a null distribution of 1000 numbers is not shown."""
        permuted = isinstance(self.null, Tensor)
        null = f"{len(self.null)} permutations" if permuted else repr(self.null)
        return (
            f"IndependenceTest(statistic={self.statistic:.6g}, pvalue={self.pvalue:.6g}, "
            f"null={null}, form={self.form!r})"
        )


@torch.no_grad()
def independence_test(
    x: Tensor,
    y: Tensor,
    measure: str = "hsic",
    method: str = "permutation",
    permutations: int = 1000,
    seed: int = 0,
    kernel_x: Kernel | None = None,
    kernel_y: Kernel | None = None,
    sigma: Sigma | None = None,
    estimator: str = "biased",
    num_classes: int | None = None,
    workspace_bytes: int | None = None,
) -> IndependenceTest:
    """Tests whether x and y are independent, given n independent samples of both.

    Args:
        x: Features (n, d), float64, float32, bfloat16 or float16.
        y: Features (n, e), or integer labels (n,), which are never expanded to one-hot.
        measure: "hsic", "cka", "distance_covariance" or "distance_correlation": the functions of these
            names. A measure and its normalized form have the same p-value.
        method: "permutation": y is permuted (p-value: Davison and Hinkley 1997, equation 4.11). "gamma":
            Gretton et al. (2008), section 3; for biased hsic and n >= 6. It needs no permutations, but is
            right only for large n.
        permutations: Number of permutations. They are drawn uniformly and independently.
        seed: Seed of the permutations. The same seed gives the same permutations and, up to round-off, the
            same null distribution on every device and for every number of threads.
        kernel_x: Kernel of x, for hsic and cka. Default: Gaussian(sigma=5.0).
        kernel_y: Kernel of y. Default: Linear() for integer labels, Gaussian(sigma=5.0) for float y.
        sigma: Short for Gaussian(sigma) as the kernel of all features.
        estimator: "biased" (n >= 2) or "unbiased" (n >= 4).
        num_classes: Number of classes of integer labels. Labels are checked against it; a Gaussian on
            labels needs it.
        workspace_bytes: Largest memory in bytes for Gram matrices. If they do not fit, their rows are
            computed again for each permutation. Default: half of the free memory.

    Returns:
        An :class:`IndependenceTest`. The statistic is computed in float64 for every dtype, and so are the
        permuted statistics up to n = 1024. For larger n, entries of the centered Gram matrices may be
        rounded to float32 for the permuted statistics; sums stay in float64. Values that differ by no more
        than round-off count as equal, so that ties of discrete data stay ties.

    Raises:
        TypeError: An argument is not a tensor of an allowed dtype, or a kernel is no kernel.
        ValueError: Shapes, devices or labels do not fit, n is too small, the features hold NaN or Inf, or
            arguments exclude each other.

    Example:
        >>> bx.independence_test(torch.randn(200, 3), torch.randn(200, 2), sigma="median").pvalue
    """
    check_choice(measure, "measure", MEASURES)
    check_choice(method, "method", METHODS)
    unbiased = check_choice(estimator, "estimator", ESTIMATORS) == "unbiased"
    if method == "gamma" and (measure != "hsic" or unbiased):
        raise ValueError(
            'method="gamma" is an approximation of biased hsic; '
            f'got measure="{measure}", estimator="{estimator}": take method="permutation".'
        )
    permutations = check_count(permutations, "permutations", 1)
    seed = check_count(seed, "seed", 0)
    check_workspace(workspace_bytes)
    kernels = _kernels(measure, kernel_x, kernel_y, sigma, y)
    minimum = 6 if method == "gamma" else 4 if unbiased else 2
    group = _checked_group(x, y, kernels, num_classes, minimum)
    n, device = group.n, group.variables[0].device
    if not all(_vary(x, y)):  # whatever is left of its centered Gram matrix is round-off
        nothing = torch.zeros(permutations, dtype=torch.float64)
        null = GammaNull(float("nan"), 0.0) if method == "gamma" else nothing
        return IndependenceTest(0.0, 1.0, null, form="a constant variable")
    budget = workspace_bytes
    if budget is None:
        budget = int(DENSE_SHARE * free_memory(str(device)))
    keep = 4 * 8 * n * n <= budget
    K, L = CenteredGram(group, 0, keep), CenteredGram(group, 1, keep)
    if method == "gamma":
        return IndependenceTest(*gamma_test(K, L, _check_range), form="gamma approximation")
    dtype = torch.float64 if n <= FLOAT64_UP_TO else torch.float32
    order = draw_permutations(n, permutations, seed).to(device)
    sums = permuted_sums(K, L, order, dtype, budget)
    _check_range((sums.norms[0] ** 0.5, sums.norms[1] ** 0.5))
    return _judge(sums, measure, unbiased, n)


def draw_permutations(n: int, count: int, seed: int) -> Tensor:
    """The identity and ``count`` permutations of n samples, uniform and independent, (1 + count, n) int32."""
    generator = torch.Generator().manual_seed(seed)
    result = torch.empty((count + 1, n), dtype=torch.int32)
    result[0] = torch.arange(n)
    for row in result[1:]:
        row.copy_(torch.randperm(n, generator=generator))
    return result


def _vary(*variables: Tensor) -> list[bool]:
    """Whether the samples of each variable are not all equal."""
    return [bool((v != v[:1]).any()) for v in variables]


def _check_range(sizes: tuple[float, float]) -> None:
    """Raises where products of the Gram matrices of x and y, none of which is constant, are no float64 numbers:
    the statistic would be NaN, which no permutation reaches, or 0.

    Args:
        sizes: Norms of both, or means of their diagonals.
    """
    for name, size in zip(("x", "y"), sizes, strict=True):
        if not SMALLEST <= size <= LARGEST:
            large = not size < 1  # NaN as well
            raise ValueError(
                f"the products of the entries of the Gram matrix of {name} {'over' if large else 'under'}flow "
                f"float64: scale {name} {'down' if large else 'up'}, or choose another bandwidth."
            )


def _kernels(
    measure: str, kernel_x: Kernel | None, kernel_y: Kernel | None, sigma: Sigma | None, y: object
) -> list[Kernel | None]:
    check_kernel(kernel_x, "kernel_x")
    check_kernel(kernel_y, "kernel_y")
    given = [name for name, k in (("kernel_x", kernel_x), ("kernel_y", kernel_y)) if k is not None]
    if measure.startswith("distance"):
        given += ["sigma"] if sigma is not None else []
        if given:
            raise ValueError(f"{', '.join(given)}: {measure} has distances, not kernels.")
        return [Energy(), Energy()]
    if sigma is None:
        return [kernel_x, kernel_y]
    if given:
        raise ValueError(
            f"sigma and {', '.join(given)} are both given: sigma is short for Gaussian(sigma)."
        )
    labels = isinstance(y, Tensor) and is_labels(y)
    return [Gaussian(sigma), None if labels else Gaussian(sigma)]


def _checked_group(
    x: Tensor, y: Tensor, kernels: list[Kernel | None], num_classes: int | None, minimum: int
) -> Group:
    check_num_classes(num_classes)
    check_features(x, "x", minimum)
    if isinstance(y, Tensor) and is_labels(y):
        check_labels(y, "y", num_classes)
    else:
        check_features(y, "y", minimum)
    check_same_samples(x, y, "x", "y")
    if x.device.type == "meta":
        raise ValueError(
            "x and y are on the meta device, which has no values: move them to a CPU or a GPU."
        )
    bad = [name for name, v in (("x", x), ("y", y)) if not bool(torch.isfinite(v).all())]
    if bad:
        raise ValueError(f"{', '.join(bad)} contain(s) NaN or Inf: the measure is undefined.")
    return make_group([x.detach(), y.detach()], kernels, num_classes, exact=True)


def _judge(sums: PermutedSums, measure: str, unbiased: bool, n: int) -> IndependenceTest:
    """The measure of every permutation from its sums, and the rank of the first, the identity."""
    pair = _hsic(sums.products, sums.diagonals, sums.traces, unbiased, n)
    (xx, yy) = (
        float(
            _hsic(
                torch.tensor(sums.norms[v], dtype=torch.float64),
                torch.tensor(sums.diagonal_norms[v], dtype=torch.float64),
                (sums.traces[v], sums.traces[v]),
                unbiased,
                n,
            )
        )
        for v in (0, 1)
    )
    size = sums.norms[0] ** 0.5 * sums.norms[1] ** 0.5
    slack = sums.round_off * size / (n * (n - 3) if unbiased else (n - 1) ** 2)
    # The identity is compared in the form of the others, but told as it is.
    exceeding = int((pair[1:] >= pair[0] - slack).sum())
    pvalue = (1 + exceeding) / len(pair)
    pair[0] += (sums.observed - sums.products[0]) / (n * (n - 3) if unbiased else (n - 1) ** 2)
    pair = pair.cpu()
    if measure in ("cka", "distance_correlation"):
        scale = max(xx, 0.0) ** 0.5 * max(yy, 0.0) ** 0.5
        pair = pair / scale if scale > 0 else torch.zeros_like(pair)
    if measure == "distance_covariance" and not unbiased:
        pair = pair * ((n - 1) / n) ** 2
    if measure.startswith("distance") and not unbiased:
        pair = pair.clamp_min(0).sqrt()
    return IndependenceTest(float(pair[0]), pvalue, pair[1:].clone(), sums.form)


def _hsic(
    product: Tensor, diagonal: Tensor, traces: tuple[float, float], unbiased: bool, n: int
) -> Tensor:
    """HSIC from T = tr(HKH HLH), the inner product of the diagonals and the traces.

    Unbiased: Song et al. 2012, equation 5, of HKH and HLH, whose rows sum to zero: without their diagonals
    a and b the row sums are -a and -b.
    """
    if not unbiased:
        return product / (n - 1) ** 2
    totals = traces[0] * traces[1] / ((n - 1) * (n - 2))
    return (product - diagonal + totals - 2 * diagonal / (n - 2)) / (n * (n - 3))

# SPDX-License-Identifier: Apache-2.0
"""Random inputs of every measure, their truth and the budget of error, for the property test.

Truth: float64 by direct differences, which do not cancel; 50 digits where nhsic has a linear kernel, and long
doubles where it has a small ridge, which float64 does not resolve. All of it from the rounded inputs, and written apart from the package.

Budget of a float32 result, in norms:
    value:     VALUE of the larger of |value| and 1 % of its bound (Cauchy-Schwarz)
    gradient:  GRADIENT |gradient| + ROUNDOFF |sum of the absolute values of what is added up|
or a refusal whose reason is on the list REFUSALS. Nothing third.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace

import torch
from nhsic_in_digits import nhsic_in_50_digits, width
from nhsic_in_long_doubles import nhsic_in_long_doubles
from polynomial_in_digits import centered_gram, gradient_of_features
from torch import Tensor

import bido_ext as bx

VALUE = {"hsic": 1e-5, "unbiased": 1e-5, "cka": 1e-5, "coco": 1e-5, "spectral": 1e-5, "nhsic": 1e-4}
GRADIENT = {
    "hsic": 1e-5,
    "unbiased": 1e-5,
    "cka": 1e-5,
    "coco": 1e-5,
    "spectral": 1e-5,
    "nhsic": 5e-5,
}
#: Of the terms of a gradient, which may cancel: a few round-offs of float32.
ROUNDOFF = 1e-6
#: What float32 rounds to a multiple of its smallest number.
TINY = 1e-36
REFUSALS = (
    "which float32 does not hold",
    "is not resolved by float64",
    "does not tell its small singular values",
    "contain(s) NaN or Inf",
    "overflows although the features are finite",
    "contains NaN or Inf: its features do, or its entries overflow",
)
KERNELS = ("gaussian", "linear", "imq")
EVERY_KERNEL = (*KERNELS, "laplacian", "energy", "rational")
#: Whose Gram matrices are made by PyTorch.
MADE_KERNELS = ("polynomial", "mixture")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Data:
    """How random features are made."""

    d: int
    rank: int
    log_scale: float
    log_offset: float
    outliers: int
    log_outlier: float
    duplicates: bool
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Case:
    """One input of one measure."""

    measure: str
    n: int
    seed: int
    x: Data
    kernel: str
    log_sigma: float
    relative: bool  # sigma in units of the scale
    y: Data | None  # None: labels
    kernel_y: str = "gaussian"
    log_eps: float = -5.0
    classes: int = field(default=3)


def features(data: Data, n: int, generator: torch.Generator) -> Tensor:
    """Rows of a given rank, scale and offset, with outliers and duplicates, rounded to the dtype."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(n, data.rank) @ normal(data.rank, data.d) / data.rank**0.5
    x = x + 10**data.log_offset - 1
    for k in range(data.outliers):
        x[(7 * k) % n, k % data.d] += 10**data.log_outlier
    if data.duplicates and n > 3:
        x[n // 2 :: 3] = x[0]
    x = x * 10**data.log_scale
    x = x.to(data.dtype)
    return x if bool(torch.isfinite(x).all()) else x.nan_to_num(0, 1, -1)


def tensors(case: Case) -> tuple[Tensor, Tensor]:
    """x, y of a case."""
    generator = torch.Generator().manual_seed(case.seed)
    x = features(case.x, case.n, generator)
    if case.y is None:
        return x, torch.randint(0, case.classes, (case.n,), generator=generator)
    return x, features(replace(case.y, dtype=torch.float32), case.n, generator)


def kernel_of(case: Case, name: str, data: Data) -> bx.Kernel:
    """The kernel object."""
    if name == "linear":
        return bx.Linear()
    if name == "imq":
        return bx.InverseMultiquadric()
    if name == "polynomial":
        return bx.Polynomial((2, 3, 1)[case.seed % 3], (1.0, 0.0)[case.seed % 2])
    if name == "mixture":
        parts = [kernel_of(case, part, data) for part in ("gaussian", "imq", "rational")]
        return bx.Mixture(parts, (0.5, 1.0, 2.0))
    if name == "energy":
        return bx.Energy((1.0, 0.5, 1.5)[case.seed % 3])
    sigma = 10**case.log_sigma * (10**data.log_scale if case.relative else 1)
    if name == "laplacian":
        return bx.Laplacian(sigma, scale_by_dim=case.seed % 2 == 0)
    if name == "rational":
        return bx.RationalQuadratic((0.5, 1.0, 3.0)[case.seed % 3], sigma)
    return bx.Gaussian(sigma, scale_by_dim=case.seed % 2 == 0)


def computed(case: Case, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | str:
    """Value and gradient of the package, or the refusal."""
    leaf = x.clone().requires_grad_()
    arguments: dict[str, object] = {"kernel_x": kernel_of(case, case.kernel, case.x)}
    if case.y is not None:
        arguments["kernel_y"] = kernel_of(case, case.kernel_y, case.y)
    name = case.measure
    if name == "unbiased":
        name, arguments["estimator"] = "hsic", "unbiased"
    elif name == "coco":
        arguments["norm"] = "fro"
    elif name == "spectral":
        name = "coco"
    elif name == "nhsic":
        arguments["eps"] = 10**case.log_eps
    try:
        value = getattr(bx, name)(leaf, y, **arguments)
    except ValueError as error:
        return str(error)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def refused_with_reason(said: str) -> bool:
    """Whether a refusal is on the list."""
    return any(re.search(re.escape(words), said) for words in REFUSALS)


def _gram(x: Tensor, kernel: bx.Kernel) -> Tensor:
    """K - 1, K where most of it is small, or x x', in float64, by direct differences."""
    if isinstance(kernel, bx.Linear):
        x = x - x[:1]
        x = x - x.mean(0)
        return x @ x.T
    if isinstance(kernel, bx.Polynomial):
        return centered_gram(x, kernel)
    if isinstance(kernel, bx.Mixture):
        both = zip(kernel.weights, kernel.kernels, strict=True)
        return sum(w * _gram(x, k) for w, k in both)  # type: ignore[return-value]
    D = (x[:, None] - x[None]).square().sum(-1)
    if isinstance(kernel, bx.Energy):
        return -(D ** (kernel.beta / 2))
    if isinstance(kernel, bx.InverseMultiquadric):
        t = -0.5 * torch.log1p(D)
    elif isinstance(kernel, bx.Laplacian):
        t = -D.sqrt() / (float(kernel.sigma) * width(kernel, x.shape[1]) ** 0.5)
    elif isinstance(kernel, bx.RationalQuadratic):
        gamma = 1 / (2 * float(kernel.sigma) ** 2 * width(kernel, x.shape[1]))
        t = -kernel.alpha * torch.log1p(gamma / kernel.alpha * D)
    else:
        t = -D / (2 * float(kernel.sigma) ** 2 * width(kernel, x.shape[1]))
    return t.exp() if t.exp().mean() < 0.1 else t.expm1()


def _of_equal(x: Tensor, K: Tensor) -> Tensor:
    """K with the same rows, to the last bit, for equal samples: a small ridge makes much of the difference."""
    first = (x[:, None] == x[None]).all(-1).int().argmax(1)
    return K[first][:, first]


def _center(K: Tensor) -> Tensor:
    K = K - K.mean(0, keepdim=True)
    return K - K.mean(1, keepdim=True)


@dataclass(frozen=True)
class Truth:
    """What is right, and the sizes that the budget is made of.

    Attributes:
        bound: What |value| cannot exceed, or is of the size of.
        terms: Norm of the sum of the absolute values that the gradient adds up.
        firm: Whether the gradient is defined: no two equal singular values on top.
    """

    value: float
    gradient: Tensor
    bound: float
    terms: float
    firm: bool = True


def truth(case: Case, x: Tensor, y: Tensor) -> Truth:
    """In float64 or more."""
    wide = x.double()
    K_of, L_of = kernel_of(case, case.kernel, case.x), None
    if case.y is not None:
        L_of = kernel_of(case, case.kernel_y, case.y)
    if case.measure == "nhsic" and (case.kernel == "linear" or isinstance(L_of, bx.Linear)):
        return Truth(*nhsic_in_50_digits(wide, y, K_of, L_of, 10**case.log_eps))
    L = (y[:, None] == y[None]).double() if L_of is None else _of_equal(y, _gram(y.double(), L_of))
    K = _of_equal(wide, _gram(wide, K_of)).requires_grad_()
    c = 10**case.log_eps * case.n
    if case.measure == "nhsic" and c < 1e-4 * max(float(K.detach().norm()), float(L.norm())):
        made = nhsic_in_long_doubles(K.detach(), L, c)
        value, G, bound = (
            torch.tensor(made[0]).double(),
            made[1],
            torch.tensor(made[2] + 1e-8 * case.n),
        )
        firm = True
    else:
        value, bound, firm = _measure(case, K, L)
        (G,) = torch.autograd.grad(value, K)
    # Of a constant variable what is left is round-off, of numbers as large as the entries of L.
    size = G.abs() + 1e-8 * L.abs().amax() / case.n**2
    if case.measure == "nhsic":  # an inverse is right in its norm: to 1e-7 of it
        size = size + 0.1 * G.abs().amax()
    if case.measure == "cka":  # the difference of two terms, equal where cka is 1
        Kc, Lc = _center(K.detach()), _center(L)
        size = Lc.abs() / bound.detach() + float(value.detach()) * Kc.abs() / Kc.square().sum()
        bound = torch.ones(())
    gradient, terms = _of_features(wide, K_of, K.detach(), G, size)
    return Truth(float(value.detach()), gradient, float(bound.detach()), terms, firm)


def _measure(case: Case, K: Tensor, L: Tensor) -> tuple[Tensor, Tensor, bool]:
    """The value, its bound (of cka: of the numerator), and whether the gradient is defined."""
    n = len(K)
    Kc, Lc = _center(K), _center(L)
    # Where one variable is constant, what is left of its Gram matrix is round-off.
    bound = (Kc.norm() * Lc.norm() + 1e-6 * K.norm() * L.norm()).detach()
    if case.measure == "unbiased":
        hollow_k, hollow_l = Kc - torch.diag(Kc.diagonal()), Lc - torch.diag(Lc.diagonal())
        # U-centering: what the estimator sees; the raw sums would cancel.
        return (
            (_u_center(hollow_k) * _u_center(hollow_l)).sum() / (n * (n - 3)),
            bound / (n * (n - 3)),
            True,
        )
    product = (Kc * Lc).sum()
    if case.measure == "hsic":
        return product / (n - 1) ** 2, bound / (n - 1) ** 2, True
    if case.measure == "cka":
        return product / (Kc.norm() * Lc.norm()), bound, True
    if case.measure == "coco":
        M = Kc @ Lc
        return M.norm().sqrt() / n, bound.sqrt() / n, True
    if case.measure == "spectral":
        M = Kc @ Lc
        s = torch.linalg.svdvals(M)
        firm = len(s) < 2 or bool(s[1] < 0.99 * s[0])
        return s[0].sqrt() / n, bound.sqrt() / n, firm
    eye = torch.eye(n, dtype=K.dtype)
    c = 10**case.log_eps * n
    S = torch.linalg.solve(Kc + c * eye, Kc)
    T = torch.linalg.solve(Lc + c * eye, Lc)
    return (S * T.T).sum(), (S.norm() * T.norm()).detach() + 1e-8 * n, True


def _u_center(k: Tensor) -> Tensor:
    n = len(k)
    rows = k.sum(1) / (n - 2)
    u = k - rows[:, None] - rows[None] + k.sum() / ((n - 1) * (n - 2))
    return u - torch.diag(u.diagonal())


def _of_features(
    x: Tensor, kernel: bx.Kernel, E: Tensor, G: Tensor, size: Tensor
) -> tuple[Tensor, float]:
    """The gradient in x from that in the Gram matrix, by direct differences, and the norm of its terms.

    Args:
        size: Of the terms of G, (n, n).
    """
    G, size = (G + G.T) / 2, (size + size.T) / 2
    if isinstance(kernel, bx.Linear):
        centered = x - x[:1]
        centered = centered - centered.mean(0)
        gradient, terms = 2 * _center(G) @ centered, 2 * size @ centered.abs()
        return gradient, float(terms.norm())
    if isinstance(kernel, bx.Polynomial):
        return gradient_of_features(x, kernel, G, size)
    if isinstance(kernel, bx.Mixture):
        parts = [
            _of_features(x, k, _gram(x, k), w * G, w * size)
            for w, k in zip(kernel.weights, kernel.kernels, strict=True)
        ]
        return sum(g for g, _ in parts), sum(t for _, t in parts)  # type: ignore[return-value]
    K = E + (0 if E[0, 0] == 1 else 1)
    D = (x[:, None] - x[None]).square().sum(-1)
    if isinstance(kernel, bx.InverseMultiquadric):
        slope = 2 * K**3
    elif isinstance(kernel, bx.Energy):
        slope = torch.where(D > 0, 2 * kernel.beta * D ** (kernel.beta / 2 - 1), 0.0)
    elif isinstance(kernel, bx.Laplacian):
        gamma = 1 / (float(kernel.sigma) * width(kernel, x.shape[1]) ** 0.5)
        slope = torch.where(D > 0, 2 * gamma * torch.exp(-gamma * D.sqrt()) / D.sqrt(), 0.0)
        size = size * (1 + 1e-9 / torch.exp(-gamma * D.sqrt()).clamp_min(1e-300))
    elif isinstance(kernel, bx.RationalQuadratic):
        gamma = 1 / (2 * float(kernel.sigma) ** 2 * width(kernel, x.shape[1]) * kernel.alpha)
        slope = 4 * kernel.alpha * gamma * (1 + gamma * D) ** (-kernel.alpha - 1)
    else:
        d = x.shape[1] if kernel.scale_by_dim else 1
        gamma = 1 / (2 * float(kernel.sigma) ** 2 * d)
        # Beside 1, exp(-36) is nothing to a float64: K - 1 does not hold it.
        slope = 4 * gamma * torch.exp(-gamma * D)
        size = size * (1 + 1e-9 / torch.exp(-gamma * D).clamp_min(1e-300))
    difference = x[None] - x[:, None]  # [i, j] = x_j - x_i
    gradient = torch.einsum("ij,ijd->id", G * slope, difference)
    terms = torch.einsum("ij,ijd->id", size * slope, difference.abs())
    # Near pairs may have large weights and next to no difference: there float64 adds up rows less row 0.
    terms = terms + 1e-9 * (size * slope).sum(1, keepdim=True) * (x - x[:1]).abs().amax()
    return gradient, float(terms.norm())


def value_ratio(case: Case, value: Tensor, true: Truth) -> float:
    """Error of a value over its budget."""
    budget = VALUE[case.measure] * max(abs(true.value), 0.01 * true.bound) + TINY
    return abs(float(value) - true.value) / budget


def gradient_ratio(case: Case, x: Tensor, gradient: Tensor, true: Truth) -> float:
    """Error of a gradient, in the dtype of x, over its budget."""
    floor = {torch.float32: 0.0, torch.bfloat16: 4e-3, torch.float16: 1e-3}[x.dtype]
    size = float(true.gradient.norm())
    budget = (GRADIENT[case.measure] + floor) * size + ROUNDOFF * true.terms + TINY
    if x.dtype == torch.float16:
        budget += 6e-8 * x.numel() ** 0.5  # its smallest number
    return float((gradient.double() - true.gradient).norm()) / budget


def worst_ratio(case: Case) -> tuple[float, str]:
    """The largest ratio of an error to its budget, and what it is of; or 0 and the refusal.

    Raises:
        AssertionError: A refusal that is not on the list, or a result that is not finite.
    """
    x, y = tensors(case)
    result = computed(case, x, y)
    if isinstance(result, str):
        assert refused_with_reason(result), f"refused for no reason on the list: {result}"
        return 0.0, result
    value, gradient = result
    if x.dtype == torch.float16 and not bool(torch.isfinite(gradient).all()):
        largest = truth(case, x, y).gradient.abs().amax()
        assert largest > 6e4, "not finite"  # float16 does not hold it
        return 0.0, "float16"
    assert bool(torch.isfinite(value)), "not finite"
    assert bool(torch.isfinite(gradient).all()), "not finite"
    true = truth(case, x, y)
    # 0/0 of constant features, which the package defines as 0.
    if not math.isfinite(true.value) or true.bound == 0:
        assert float(value) == 0
        assert not bool(gradient.any())
        return 0.0, "constant"
    ratio, what = value_ratio(case, value, true), "value"
    if not true.firm or not bool(torch.isfinite(true.gradient).all()):
        return ratio, what
    of_gradient = gradient_ratio(case, x, gradient, true)
    return (of_gradient, "gradient") if of_gradient > ratio else (ratio, what)

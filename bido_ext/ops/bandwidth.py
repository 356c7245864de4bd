# SPDX-License-Identifier: Apache-2.0
"""From the bandwidth sigma to gamma = 1 / (2 sigma^2).

BiDO divides squared distances by the number of columns as well: gamma = 1 / (2 sigma^2 d), that is,
a bandwidth of sigma sqrt(d) (``scale_by_dim``; protocols of Peng et al. 2022 use sigma = 5).
Gammas are 0-d float64 tensors on the device of the features: no value travels to the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.ops._transforms import transforms_active
from bido_ext.ops._validate import as_number, check_positive, readable
from bido_ext.reference.gaussian_gram import squared_distances

Sigma = float | int | str | Tensor
#: Its square times any width is a float64 that is neither 0 nor infinite, as is that of its inverse.
SMALLEST = 1e-140


def check_sigma(sigma: object, name: str = "sigma") -> Sigma:
    """A positive number, a 0-d floating tensor, or "median"."""
    if isinstance(sigma, str):
        if sigma != "median":
            raise ValueError(
                f'{name} must be a positive number, a 0-d tensor or "median"; got {sigma!r}.'
            )
        return sigma
    if isinstance(sigma, Tensor):
        if sigma.dim() != 0 or not sigma.is_floating_point():
            raise ValueError(
                f"{name} must be a 0-d floating-point tensor, got shape {tuple(sigma.shape)} "
                f"and dtype {sigma.dtype}."
            )
        check_value(sigma, name)
        return sigma
    if as_number(sigma) is None:
        raise TypeError(
            f'{name} must be a positive number, a 0-d tensor or "median", got {type(sigma).__name__}.'
        )
    return _in_range(sigma, name)


def check_value(sigma: Tensor, name: str = "sigma") -> None:
    """The value of a bandwidth that is a tensor, where looking is free: it may have been learnt since."""
    if readable(sigma) and not transforms_active(sigma):
        learnt = " Lower its learning rate, or clamp it after each step." * sigma.requires_grad
        _in_range(float(sigma.detach()), name, learnt)


def _in_range(sigma: object, name: str, way: str = "") -> float:
    value = check_positive(sigma, name, way)
    if not SMALLEST <= value <= 1 / SMALLEST:
        raise ValueError(f"{name} must be between {SMALLEST} and {1 / SMALLEST}, got {value}.{way}")
    return value


def gamma_of(sigma: Sigma, x: Tensor, scale_by_dim: bool) -> Tensor:
    """gamma for features x (n, d): 1 / (2 sigma^2), with scale_by_dim 1 / (2 sigma^2 d)."""
    d = x.shape[1] if scale_by_dim else 1
    if isinstance(sigma, str):
        return 0.5 / median_squared_distance(x)
    if isinstance(sigma, Tensor):
        check_value(sigma)
        # Its gradient comes through the features (learnable_sigma.py).
        return 0.5 / (sigma.detach().to(device=x.device, dtype=torch.float64).square() * d)
    gamma = constant_gamma(sigma, d, scale_by_dim=True)
    assert gamma is not None
    return torch.full((), gamma, dtype=torch.float64, device=x.device)


def constant_gamma(sigma: Sigma, d: int, scale_by_dim: bool) -> float | None:
    """gamma where sigma is a number; None where it is found on the device."""
    if isinstance(sigma, (str, Tensor)):
        return None
    return 1 / (2 * float(sigma) ** 2 * (d if scale_by_dim else 1))


@torch.no_grad()
def median_squared_distance(x: Tensor) -> Tensor:
    """The median of |x_i - x_j|^2 over i < j: the median heuristic sigma = median distance.

    Already in the units of the features, hence never scaled by the dimension. Where more than half
    of the pairs coincide the mean serves; where all do, one (K is all ones then in any case).
    """
    n = x.shape[0]
    if n < 2:
        return torch.ones((), dtype=torch.float64, device=x.device)
    D = squared_distances(x.double())
    mean = D.sum() / (n * (n - 1))
    # Each pair counts twice, a sample with itself not at all. No rank by n, which may be a symbol.
    D.diagonal().fill_(float("nan"))
    median = D.flatten().nanmedian()
    median = torch.where(median > 0, median, mean)
    return torch.where(median > 0, median, torch.ones_like(median))

# SPDX-License-Identifier: Apache-2.0
"""The factors of nhsic as a composition: S = Kc (Kc + c I)^-1 = I - c P, P = (Kc + c I)^-1.

Of labels in closed form, of Gram matrices by Cholesky; linear_factor.py has those of linear kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bido_ext.ops.algebra import center_stack
from bido_ext.ops.kernels import same_class
from bido_ext.reference.gram_stack import GRAM
from bido_ext.reference.resolution import amplifies_roundoff, too_coarse_for_ridge, unresolved

#: Against c: below, I - c P cancels (csrc/cpu/nhsic_factors.h has the same).
SMALLEST_GRAM = 1e-2


def label_factor(labels: Tensor, scale: Tensor | float, c: float, dtype: torch.dtype) -> Tensor:
    """S of Kc = scale H [y_i = y_j] H in closed form: no factorisation.

    With c' = c / scale, Y one-hot and Yc = H Y, S = Yc (Yc'Yc + c' I)^-1 Yc' and Yc'Yc = diag(n_c) -
    n_c n_c'/n is diagonal plus rank one. By Sherman-Morrison, with g_i = c' / (n_{y_i} + c') for sample i:
    S = H ([y_i = y_j] / (n_{y_i} + c')) H + (g - mean g)(g - mean g)' / (n mean g).
    """
    n = labels.shape[0]
    ridge = c / scale
    same = same_class(labels, torch.float64)
    several = ~same.all()  # of one class S is 0, and no round-off
    class_sizes = same.sum(1)  # of each sample's own class
    weight = 1 / (class_sizes + ridge)
    # Rows of [y_i = y_j] / (n_{y_i} + c) sum to n_{y_i} / (n_{y_i} + c) = 1 - g_i.
    g = ridge * weight
    offset = g - g.mean()
    S = same.mul_(weight[:, None])
    S.add_(offset[:, None] / n).add_(offset[None, :] / n).sub_((1 - g.mean()) / n)
    return S.add_(torch.outer(offset, offset / g.sum())).mul_(several).to(dtype)


def factorise(stack: Tensor, c: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """P and the Cholesky factor of Kc + c I, of Gram matrices up to centering (b, n, n)."""
    cholesky = ridged_factor(stack, c, dtype)
    return torch.cholesky_inverse(cholesky), cholesky


def ridged_factor(stack: Tensor, c: float, dtype: torch.dtype) -> Tensor:
    """The Cholesky factor of Kc + c I, of Gram matrices up to centering (b, n, n); NaN where there is none."""
    ridge = center_stack(stack, dtype)
    ridge.diagonal(dim1=-2, dim2=-1).add_(c)
    # _ex: no host sync for an error check; a failed factorisation turns into NaN.
    cholesky, info = torch.linalg.cholesky_ex(ridge)
    return cholesky.masked_fill_((info != 0)[:, None, None], float("nan"))


def factor(stack: Tensor, P: Tensor, cholesky: Tensor, c: float) -> Tensor:
    """S of each Gram matrix, from its inverse or, in float32, where I - c P cancels, by the solve form."""
    if P.dtype == torch.float64:
        S = P * -c
        S.diagonal(dim1=-2, dim2=-1).add_(1)
        size = torch.linalg.vector_norm(stack, dim=(-2, -1), dtype=torch.float64)
        small = (size <= SMALLEST_GRAM * c)[:, None, None]
        if type(small) is Tensor and small.device.type == "cpu" and not bool(small.any()):
            return S
        # Kc P = Kc (I - S) / c, whose first term has all digits.
        Kc = center_stack(stack, P.dtype)
        exact = torch.baddbmm(Kc, Kc, S, alpha=-1).div_(c)
        return torch.where(small, (exact + exact.mT) / 2, S)
    S = torch.cholesky_solve(center_stack(stack, P.dtype), cholesky)
    return (S + S.mT) / 2


def average_equal_rows(E: Tensor, S: Tensor, P: Tensor | None = None) -> None:
    """Averages S and P, made of float64 E, all (n, n), over all orders of equal samples, in place.

    csrc/cpu/equal_rows.h says why.
    """
    if E.dtype != torch.float64 or E.device.type != "cpu":
        return
    group = (E == 0).int().fill_diagonal_(1).argmax(1)  # the first row equal to it
    group, sizes = torch.unique(group, return_inverse=True, return_counts=True)[1:]
    if len(sizes) == len(E):
        return
    to_group = torch.nn.functional.one_hot(group, len(sizes)).to(E.dtype)
    count = sizes.to(E.dtype)
    # S maps the difference of equal samples to 0: its diagonal is like the rest of its block.
    S.copy_(((to_group.T @ S @ to_group) / (count[:, None] * count))[group][:, group])
    if P is None:
        return
    trace = P.diagonal() @ to_group
    sums = to_group.T @ P @ to_group - torch.diag(trace)
    pairs = count[:, None] * count - torch.diag(count)
    P.copy_((sums / pairs.clamp_min(1))[group][:, group])
    P.diagonal().copy_((trace / count)[group])


def is_unresolved(E: Tensor, S: Tensor, kind: int, eps: float) -> Tensor:
    """Whether the Gram matrix E, or the algebra that made its factor S, is too coarse for eps n; 0-d bool."""
    algebra = S.dtype
    if (
        E.dtype == torch.float32
        and algebra == torch.float64
        and E.device.type == "cpu"
        and kind != GRAM
    ):
        return unresolved(E, kind) | amplifies_roundoff(E, S, eps)
    coarse = E.dtype if E.dtype.itemsize < algebra.itemsize else algebra
    return unresolved(E, kind) | too_coarse_for_ridge(E, eps, coarse)

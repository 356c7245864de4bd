# SPDX-License-Identifier: Apache-2.0
"""The top singular triples of products K L of symmetric matrices, a batch at once, in a fixed number of steps.

The method, its bound on the error and its number of steps are those of bido_ext/ops/top_singular.py. A block
is made orthogonal to the space by products, and in itself by QR, none of which looks at a value.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from bido_ext.ops.top_singular import BLOCK, LARGEST_RESIDUAL, SQUARINGS, STEPS_ELSEWHERE

#: Up to here the space would be as large as the matrix.
SMALL = 128
#: In units of round-off, what of a column is new.
LEAST_NEW = 100


def top_singular_vectors(Kc: Tensor, Lc: Tensor) -> tuple[Tensor, Tensor]:
    """u and v (b, n, 1) of the largest singular values of Kc Lc (b, n, n); NaN where the residual is large."""
    if Kc.shape[-1] <= SMALL:
        return squared(Kc, Lc)
    K, L = _scaled(Kc), _scaled(Lc)
    return _checked(K, L, _in_krylov_space(K, L, STEPS_ELSEWHERE))


def squared(Kc: Tensor, Lc: Tensor) -> tuple[Tensor, Tensor]:
    """The same by repeated squaring of M'M, M = Kc Lc."""
    K, L = _scaled(Kc), _scaled(Lc)
    M = K @ L
    return _checked(K, L, _top_eigenvectors(M.mT @ M))


def _checked(K: Tensor, L: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """u and v of right vectors v; both of length 1, or 0 where the product is."""
    Mv = K @ (L @ v)
    s = torch.linalg.vector_norm(Mv, dim=(-2, -1), keepdim=True)
    u = Mv / torch.where(s == 0, 1.0, s)
    off = torch.linalg.vector_norm(L @ (K @ u) - s * v, dim=(-2, -1), keepdim=True)
    bad = ~((off <= LARGEST_RESIDUAL * s) | (s == 0))
    return u.masked_fill(bad, float("nan")), v


def _in_krylov_space(K: Tensor, L: Tensor, steps: int) -> Tensor:
    """The top right vectors of the space of so many steps, (b, n, 1)."""

    def square(X: Tensor) -> Tensor:
        return L @ (K @ (K @ (L @ X)))

    b, n = K.shape[:2]
    # Room for the whole space: a growing one would be copied at every step.
    basis = K.new_zeros((b, n, (steps + 1) * BLOCK))
    images = K.new_zeros((b, n, steps * BLOCK))
    # A traced graph keeps its own: what is kept here would be a tensor of another trace.
    noise_of = _noise if type(K) is Tensor else _noise.__wrapped__
    start, *noise = noise_of(n, steps + 2, K.dtype, K.device).expand(b, -1, -1).split(BLOCK, -1)
    basis[..., :BLOCK] = _orthonormal(square(start), basis[..., :0], noise[0])
    for step in range(steps):
        end = (step + 1) * BLOCK
        image = square(basis[..., end - BLOCK : end])
        images[..., end - BLOCK : end] = image
        basis[..., end : end + BLOCK] = _orthonormal(image, basis[..., :end], noise[step + 1])
    inside = basis[..., :-BLOCK]
    T = (inside.mT @ images).double()
    return inside @ _top_eigenvectors(T).to(inside.dtype)


@functools.lru_cache(maxsize=16)
def _noise(n: int, blocks: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same columns every time, (n, blocks * BLOCK); they travel to the device once.

    Fractions of a fast sine: PyTorch 2.10 does not trace a generator of random numbers.
    """
    rows = torch.arange(n, dtype=torch.float64)[:, None]
    columns = torch.arange(blocks * BLOCK, dtype=torch.float64)
    fast = (rows * 12.9898 + columns * 78.233).sin() * 43758.5453
    return (fast - fast.floor() - 0.5).to(device, dtype)


def _orthonormal(W: Tensor, basis: Tensor, noise: Tensor) -> Tensor:
    """As many orthonormal columns as W (b, n, k) has, orthogonal to the basis, whose span holds that of W.

    Columns that are nothing new are noise instead: whatever is in the space does no harm.
    """
    before = torch.linalg.vector_norm(W, dim=-2, keepdim=True)
    W = _less(basis, W / torch.where(before > 0, before, 1.0))
    R = torch.linalg.qr(W, mode="r").R
    new = R.diagonal(dim1=-2, dim2=-1).abs() > LEAST_NEW * torch.finfo(W.dtype).eps
    W = _less(basis, torch.where(new[..., None, :], W, noise))
    # Once leaves round-off of what was taken away.
    return torch.linalg.qr(_less(basis, torch.linalg.qr(W).Q)).Q


def _less(basis: Tensor, W: Tensor) -> Tensor:
    """W without what the basis spans."""
    return W - basis @ (basis.mT @ W) if basis.shape[-1] else W


def _scaled(K: Tensor) -> Tensor:
    """K with entries up to 1: the vectors do not change, and products of products stay finite."""
    largest = K.abs().amax((-2, -1), keepdim=True)
    return K / torch.where(largest > 0, largest, 1.0)


def _unit(v: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(v, dim=-2, keepdim=True)
    return v / torch.where(length == 0, 1.0, length)


def _top_eigenvectors(T: Tensor) -> Tensor:
    """Of symmetric matrices (b, k, k) without negative eigenvalues, by repeated squaring; (b, k, 1)."""
    power = T
    for _ in range(SQUARINGS):
        size = torch.linalg.vector_norm(power, dim=(-2, -1), keepdim=True)
        power = power / torch.where(size == 0, 1.0, size)
        power = power @ power
    lengths = torch.linalg.vector_norm(power, dim=-2)
    # The longest column, without its index: a weighted sum would mix columns of opposite sign.
    longest = (lengths == lengths.amax(-1, keepdim=True)).to(T.dtype)
    first = longest * (longest.cumsum(-1) == 1)
    return _unit(T @ (power @ first[..., None]))

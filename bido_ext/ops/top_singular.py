# SPDX-License-Identifier: Apache-2.0
"""The top singular triple of Kc Lc by a block Krylov method: O(n^2) work a step, where an SVD is O(n^3).

The space spanned by X, A X, A^2 X, ... of A = (Kc Lc)'(Kc Lc) and a few random columns X holds the top right
singular vector to more digits at every step (Musco and Musco 2015). Its projection T is small; the top
eigenvector of T is what repeated squaring leaves. No step looks at a value, so a CUDA graph may record it.

The residual r = |M'u - s v| / s bounds the relative error of s. On the CPU steps follow until r is round-off,
and where they do not help, a full decomposition. Elsewhere the number of steps is fixed, and r beyond
LARGEST_RESIDUAL is answered with NaN.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

BLOCK = 4
#: Steps before the residual is looked at again on the CPU; of other devices all.
STEPS, MOST_STEPS = 5, 40
STEPS_ELSEWHERE = 20
#: The CPU decomposes M'M up to this n, which is faster there; elsewhere, up to SMALL, it is the small matrix.
DECOMPOSED_UP_TO = 256
SMALL = 64
#: In units of round-off, what ends the steps on the CPU.
CONVERGED = 64
#: T is squared so often: the second eigenvalue, a share 1 - 1e-4 of the first, is then 1e-29 of it.
SQUARINGS = 16
#: Where the device is not the CPU.
LARGEST_RESIDUAL = 1e-5


def top_singular_vectors(Kc: Tensor, Lc: Tensor) -> tuple[Tensor, Tensor]:
    """u and v of the largest singular value of Kc Lc, symmetric (n, n); NaN where they are not finite."""
    K, L = _scaled(Kc), _scaled(Lc)
    if K.device.type == "cpu":
        return decomposed(K, L) if len(K) <= DECOMPOSED_UP_TO else until_converged(K, L)
    return squared(K, L) if len(K) <= SMALL else in_fixed_steps(K, L)


def decomposed(K: Tensor, L: Tensor) -> tuple[Tensor, Tensor]:
    """By all eigenvectors of M'M."""
    M = K @ L
    finite = torch.isfinite(M).all()
    M = torch.where(finite, M, 0.0)  # eigh refuses NaN
    u, v = _pair(K, L, torch.linalg.eigh(M.T @ M).eigenvectors[:, -1])
    return u.masked_fill(~finite, float("nan")), v


def squared(K: Tensor, L: Tensor) -> tuple[Tensor, Tensor]:
    """By repeated squaring of M'M."""
    M = K @ L
    return _pair(K, L, _top_eigenvector(M.T @ M))


def until_converged(K: Tensor, L: Tensor) -> tuple[Tensor, Tensor]:
    """By as many steps as it takes, or decomposed where they do not help."""
    space = _Space(K, L)
    while True:
        u, v = space.after(STEPS)
        residual = _residual(K, L, u, v)
        if bool(residual <= CONVERGED * torch.finfo(K.dtype).eps) or bool(residual.isnan()):
            return u, v
        if space.steps >= MOST_STEPS or space.steps * BLOCK >= len(K) // 2:
            return decomposed(K, L)


def in_fixed_steps(K: Tensor, L: Tensor) -> tuple[Tensor, Tensor]:
    """Without a look at a value; NaN where the residual is too large."""
    u, v = _Space(K, L).after(STEPS_ELSEWHERE)
    bad = ~(_residual(K, L, u, v) <= LARGEST_RESIDUAL)
    return u.masked_fill(bad, float("nan")), v


class _Space:
    """The Krylov space of M'M, M = K L, and what is known of the top singular triple in it."""

    def __init__(self, K: Tensor, L: Tensor) -> None:
        self.K, self.L = K, L
        # A traced graph keeps its own: what is kept here would be a tensor of another trace.
        noise = _noise if type(K) is Tensor else _noise.__wrapped__
        start = self._square(noise(len(K), K.dtype, K.device))
        self.basis, self.images = _orthonormal(start, start[:, :0]), start[:, :0]

    @property
    def steps(self) -> int:
        return self.images.shape[1] // BLOCK

    def after(self, steps: int) -> tuple[Tensor, Tensor]:
        """u and v after so many further steps."""
        for _ in range(steps):
            image = self._square(self.basis[:, -BLOCK:])
            self.images = torch.cat([self.images, image], 1)
            self.basis = torch.cat([self.basis, _orthonormal(image, self.basis)], 1)
        inside = self.basis[:, :-BLOCK]
        T = (inside.T @ self.images).double()
        return _pair(self.K, self.L, inside @ _top_eigenvector(T).to(inside.dtype))

    def _square(self, X: Tensor) -> Tensor:
        K, L = self.K, self.L
        return L @ (K @ (K @ (L @ X)))


def _scaled(K: Tensor) -> Tensor:
    """K with entries up to 1: the vectors do not change, and products of products stay finite."""
    largest = K.abs().amax()
    return K / torch.where(largest > 0, largest, 1.0)


def _pair(K: Tensor, L: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """u of a right vector v; both of length 1, or 0 where the product is."""
    u = K @ (L @ v)
    length = torch.linalg.vector_norm(u)
    return u / torch.where(length == 0, 1.0, length), v


def _residual(K: Tensor, L: Tensor, u: Tensor, v: Tensor) -> Tensor:
    s = torch.linalg.vector_norm(K @ (L @ v))
    off = torch.linalg.vector_norm(L @ (K @ u) - s * v)
    return torch.where(s == 0, 0.0, off / torch.where(s == 0, 1.0, s))


def _top_eigenvector(T: Tensor) -> Tensor:
    """Of a symmetric matrix without negative eigenvalues; of two equal ones, some mixture."""
    power = T
    for _ in range(SQUARINGS):
        size = torch.linalg.vector_norm(power)
        power = power / torch.where(size == 0, 1.0, size)
        power = power @ power
    lengths = torch.linalg.vector_norm(power, dim=0)
    # The longest column, without its index: a weighted sum would mix columns of opposite sign.
    longest = (lengths == lengths.amax()).to(T.dtype)
    first = longest * (longest.cumsum(0) == 1)
    v = T @ (power @ first)
    length = torch.linalg.vector_norm(v)
    return v / torch.where(length == 0, 1.0, length)


@functools.lru_cache(maxsize=16)
def _noise(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same columns every time, made on the device. No generator: PyTorch 2.11 cannot trace one.

    Digits of a sine far from its first ones look random, and nothing here needs more.
    """
    index = torch.arange(1, n * BLOCK + 1, dtype=torch.float64, device=device)
    digits = torch.frac(torch.sin(index * 12.9898) * 43758.5453)
    return digits.reshape(n, BLOCK).to(dtype)


def _orthonormal(W: Tensor, basis: Tensor) -> Tensor:
    """The columns of W made orthogonal to the basis and to each other; what is nothing new becomes 0."""
    done = basis
    for i in range(W.shape[1]):
        w = W[:, i]
        before = torch.linalg.vector_norm(w)
        for _ in range(2):  # once leaves round-off of the size of what was taken away
            w = w - done @ (done.T @ w)
        length = torch.linalg.vector_norm(w)
        new = length > 100 * torch.finfo(W.dtype).eps * before
        w = torch.where(new, w, 0 * w) / torch.where(new, length, 1.0)
        done = torch.cat([done, w[:, None]], 1)
    return done[:, basis.shape[1] :]

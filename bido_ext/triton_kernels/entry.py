# SPDX-License-Identifier: Apache-2.0
"""The kernels of the measures on one entry; the same arithmetic as csrc/common/{gaussian,kernel_tile}.h.

A new kernel is a branch in :func:`entry_of_distance`, :func:`slope_of_entry` and :func:`feature_weight`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from bido_ext.reference import kernel_entries as kinds
from bido_ext.triton_kernels.resolution import FARTHEST, NEAREST

GAUSSIAN = tl.constexpr(kinds.GAUSSIAN)
LINEAR = tl.constexpr(kinds.LINEAR)
INVERSE_MULTIQUADRIC = tl.constexpr(kinds.INVERSE_MULTIQUADRIC)
LAPLACIAN = tl.constexpr(kinds.LAPLACIAN)
ENERGY = tl.constexpr(kinds.ENERGY)
RATIONAL_QUADRATIC = tl.constexpr(kinds.RATIONAL_QUADRATIC)
LABELS = tl.constexpr(kinds.LABELS)
GRAM = tl.constexpr(kinds.GRAM)


@triton.jit
def _expm1_parts(t):
    # t = k ln2 + r, |r| <= ln2 / 2: (2^k, expm1(r)). Below -80 both stay at their value there.
    clamped = tl.where(t < -80.0, -80.0, t)  # NaN passes
    shifted = clamped * 1.44269504 + 12582912.0  # 1.5 * 2^23: rounds to an integer
    k = shifted - 12582912.0
    r = (clamped - k * 0.693145752) - k * 1.42860677e-6
    q = r * 1.98412698e-4 + 1.38888889e-3
    q = q * r + 8.33333333e-3
    q = q * r + 4.16666667e-2
    q = q * r + 1.66666667e-1
    q = q * r + 0.5
    small = r + r * r * q
    exponent = (shifted.to(tl.int32, bitcast=True) - 0x4B400000 + 127) << 23
    return exponent.to(tl.float32, bitcast=True), small


@triton.jit
def expm1_nonpositive(t):
    """expm1 for t <= 0, relative accuracy down to the smallest distances."""
    scale, small = _expm1_parts(t)
    return scale * small + (scale - 1.0)


@triton.jit
def exp_nonpositive(t):
    scale, small = _expm1_parts(t)
    return scale * small + scale


@triton.jit
def log1p_above(x):
    """log1p for x > -1, relative accuracy near 0: the device's log is off by 2^-22 there."""
    u = 1.0 + x
    # u = 2^k m, m in [0.75, 1.5); log m = 2 atanh(f / (2 + f)), f = m - 1.
    k = ((u.to(tl.int32, bitcast=True) + 0x00400000) >> 23) - 127
    scale = ((127 - k) << 23).to(tl.float32, bitcast=True)
    f = tl.where(k == 0, x, u * scale - 1.0)
    s = f / (2.0 + f)
    z = s * s
    q = z * 9.09090909e-2 + 1.11111111e-1
    q = q * z + 1.42857143e-1
    q = q * z + 0.2
    q = q * z + 3.33333333e-1
    lost = tl.where(x < 1.0, x - (u - 1.0), 1.0 - (u - x)) / u  # of x in the sum u
    whole = k.to(tl.float32)
    rest = whole * 1.42860677e-6 + tl.where(k == 0, 0.0, lost)
    return whole * 0.693145752 + (2.0 * (s + s * z * q) + rest)


@triton.jit
def power(base, exponent):
    """base^exponent for base > 0."""
    return tl.exp2(exponent * tl.log2(base))


@triton.jit
def round_to_tf32(x):
    """To 10 bits of mantissa, ties away from zero: what the tensor core then takes is exactly this."""
    bits = x.to(tl.int32, bitcast=True)
    rounded = ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return tl.where(x != x, x, rounded)


@triton.jit
def squared_distance(norm_i, norm_j, inner):
    distance = norm_i + norm_j - 2.0 * inner
    return tl.where(distance < 0.0, 0.0, distance)  # NaN passes: bad features are seen


@triton.jit
def entry_of_distance(kind, distance, gamma, alpha, MINUS_ONE: tl.constexpr):
    """K - 1 from a squared distance, K without MINUS_ONE (Gaussian kernel only), -D^(beta/2) of Energy."""
    if kind == GAUSSIAN:
        if MINUS_ONE:
            value = expm1_nonpositive(-gamma * distance)
        else:
            value = exp_nonpositive(-gamma * distance)
    elif kind == LAPLACIAN:
        value = expm1_nonpositive(-gamma * tl.sqrt_rn(distance))
    elif kind == ENERGY:
        if gamma == 1.0:
            value = -tl.sqrt_rn(distance)
        else:
            apart = distance > 0.0
            value = -power(tl.where(apart, distance, 1.0), 0.5 * gamma)
            value = tl.where(apart, value, distance - distance)
    elif kind == RATIONAL_QUADRATIC:
        value = expm1_nonpositive(-alpha * log1p_above(gamma * distance))
    else:
        root = tl.sqrt_rn(1.0 + distance)
        value = -distance / (root * (1.0 + root))
    return value


@triton.jit
def slope_of_entry(kind, value, distance, gamma, alpha, MINUS_ONE: tl.constexpr):
    """|de/dD| of the smooth kernels; 0 of the others, whose near distances are made from differences."""
    if MINUS_ONE:
        k = value + 1.0
    else:
        k = value
    if kind == GAUSSIAN:
        slope = gamma * k
    elif kind == INVERSE_MULTIQUADRIC:
        slope = 0.5 * k / (1.0 + distance)
    elif kind == RATIONAL_QUADRATIC:
        slope = alpha * gamma * k / (1.0 + gamma * distance)
    else:
        slope = tl.zeros_like(value)
    return slope


@triton.jit
def gram_entry(kind, norms, inner, distance, gamma, alpha, MINUS_ONE: tl.constexpr):
    """Gram entry up to centering: K - 1, or the product itself for the linear kernel; NaN where float32 does
    not resolve it.

    norms: |x_i|^2 + |x_j|^2, whose round-off is that of the distance.
    """
    if kind == LINEAR:
        value = inner
    else:
        value = entry_of_distance(kind, distance, gamma, alpha, MINUS_ONE)
        farthest = FARTHEST
        if kind != GAUSSIAN:
            farthest = 0.5 * FARTHEST  # near pairs weigh more beside far ones
        lost = slope_of_entry(kind, value, distance, gamma, alpha, MINUS_ONE) * norms > farthest
        if (kind == LAPLACIAN) | (kind == ENERGY):
            # Their weights are too large beside the others.
            lost = (distance > 0.0) & (distance < norms * NEAREST)
        value = tl.where(lost, float("nan"), value)
    return value


@triton.jit
def diagonal_entry(kind, norm, value, MINUS_ONE: tl.constexpr):
    """The exact diagonal; finite - finite = 0, and NaN stays."""
    if kind == LINEAR:
        exact = value
    else:
        exact = tl.zeros_like(value) + (norm - norm)
        if not MINUS_ONE:
            exact += 1.0
    return exact


@triton.jit
def feature_weight(kind, entry, grad, gamma, alpha, IS_K: tl.constexpr):
    """A_ij from the gradient of a Gram entry: grad_x = (A - diag(A 1)) x, or A x for the linear kernel."""
    if IS_K:
        k = entry
    else:
        k = entry + 1.0
    if kind == GAUSSIAN:
        weight = 4.0 * gamma * grad * k
    elif kind == INVERSE_MULTIQUADRIC:
        weight = 2.0 * grad * k * k * k
    elif kind == LINEAR:
        weight = 2.0 * grad
    elif kind == LAPLACIAN:  # 2 gamma g K / s at distance s > 0
        apart = entry < 0.0
        exponent = log1p_above(tl.where(apart & (k > 0.0), entry, -0.5))
        weight = tl.where(apart, -2.0 * gamma * gamma * grad * k / exponent, entry - entry)
    elif kind == ENERGY:
        apart = entry < 0.0
        size = tl.where(apart, -entry, 1.0)
        if gamma == 1.0:
            weight = 2.0 * grad / size
        else:
            weight = 2.0 * gamma * grad * power(size, 1.0 - 2.0 / gamma)
        weight = tl.where(apart, weight, entry - entry)
    elif kind == RATIONAL_QUADRATIC:
        held = k > 0.0
        of_k = exp_nonpositive((1.0 + 1.0 / alpha) * log1p_above(tl.where(held, entry, -0.5)))
        weight = 4.0 * alpha * gamma * grad * tl.where(held, of_k, k)
    else:
        weight = grad
    return weight


@triton.jit
def pick(values, index, COUNT: tl.constexpr):
    """values[index] of a tuple of pointers, for an index known only at run time."""
    picked = values[0]
    for i in tl.static_range(1, COUNT):
        picked = tl.where(index == i, values[i], picked)
    return picked

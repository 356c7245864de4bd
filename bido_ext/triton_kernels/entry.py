# SPDX-License-Identifier: Apache-2.0
"""The kernels of the measures on one entry; the same arithmetic as csrc/common/{gaussian,kernel_tile}.h."""

from __future__ import annotations

import triton
import triton.language as tl

from bido_ext.reference.gram_stack import GAUSSIAN as _GAUSSIAN
from bido_ext.reference.gram_stack import GRAM as _GRAM
from bido_ext.reference.gram_stack import INVERSE_MULTIQUADRIC as _INVERSE_MULTIQUADRIC
from bido_ext.reference.gram_stack import LINEAR as _LINEAR

GAUSSIAN = tl.constexpr(_GAUSSIAN)
LINEAR = tl.constexpr(_LINEAR)
INVERSE_MULTIQUADRIC = tl.constexpr(_INVERSE_MULTIQUADRIC)
GRAM = tl.constexpr(_GRAM)


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
def round_to_tf32(x):
    """To 10 bits of mantissa, ties away from zero: what the tensor core then takes is exactly this."""
    bits = x.to(tl.int32, bitcast=True)
    rounded = ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return tl.where(x != x, x, rounded)


@triton.jit
def gram_entry(kind, norm_i, norm_j, inner, gamma, MINUS_ONE: tl.constexpr):
    """Gram entry up to centering from an inner product: K - 1, or the product itself for the linear kernel."""
    distance = norm_i + norm_j - 2.0 * inner
    distance = tl.where(distance < 0.0, 0.0, distance)  # NaN passes: bad features are seen
    if kind == LINEAR:
        value = inner
    elif kind == GAUSSIAN:
        if MINUS_ONE:
            value = expm1_nonpositive(-gamma * distance)
        else:
            value = exp_nonpositive(-gamma * distance)
    else:
        root = tl.sqrt_rn(1.0 + distance)
        value = -distance / (root * (1.0 + root))
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
def feature_weight(kind, entry, grad, gamma, IS_K: tl.constexpr):
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


@triton.jit
def pick_int(values, index, COUNT: tl.constexpr):
    """The same of whole numbers; the result is no constant even where Triton takes a 1 for one."""
    picked = tl.where(index == 0, values[0], 0)
    for i in tl.static_range(1, COUNT):
        picked = tl.where(index == i, values[i], picked)
    return picked

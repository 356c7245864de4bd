# SPDX-License-Identifier: Apache-2.0
"""What the forms of nhsic made of PyTorch's products share: all but the inverse P = (Kc + c I)^-1.

A form is a function from ridged matrices Kc + c I (b, n, n), which it may overwrite, to their inverses, NaN
where they are not positive definite. Nothing is read back from the device: torch.cholesky_inverse and an SVD,
which bido_ext/ops/nhsic.py is made of, check their result on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from bido_ext.composed import BATCHED_UP_TO
from bido_ext.composed._linear_factor import linear_factor
from bido_ext.ops.algebra import batches, center_stack, inner_product, partner_sum, partners_of
from bido_ext.ops.gram_stack import gradients_of, gram_stack_of
from bido_ext.ops.nhsic_factors import is_unresolved, label_factor
from bido_ext.ops.nhsic_gradient import gradient_of_gram
from bido_ext.reference.gram_stack import LABELS, LINEAR, group_dtype
from bido_ext.reference.kernel_entries import scalar
from bido_ext.reference.resolution import nan_where_unresolved
from bido_ext.serving.row import Function

#: Against c: below, S is K / c to half of float64's digits.
FIRST_ORDER_GRAM = 1e-8

Inverse = Callable[[Tensor], Tensor]


def functions_with(inverse: Inverse) -> tuple[Function, Function]:
    """Forward and backward of bido_ext.ops.nhsic with this inverse."""
    return partial(_forward, inverse), _backward


def _forward(
    inverse: Inverse, variables: Sequence[Tensor], parameters: Tensor, kinds: Sequence[int],
    first: Sequence[int], second: Sequence[int], eps: float, wide: bool, wanted: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    n = variables[0].shape[0]
    c = eps * n
    dtype = torch.float64 if wide else group_dtype(variables, kinds)
    partners = partners_of(first, second, wanted)
    with torch.autocast(variables[0].device.type, enabled=False):
        bad = [torch.zeros((), dtype=torch.bool, device=parameters.device)] * len(kinds)
        factors: dict[int, Tensor] = {}  # those that a later pair or the backward needs
        rests: dict[int, Tensor] = {}
        values: dict[int, Tensor] = {}
        for i, kind in enumerate(kinds):
            if kind == LABELS:
                factors[i] = label_factor(variables[i], scalar(parameters[i]), c, dtype)
            elif kind == LINEAR:
                made = linear_factor(variables[i], c)
                factors[i], rests[i], bad[i] = made.S.to(dtype), made.rest, made.unresolved
        stack = gram_stack_of(variables, parameters, kinds, wanted)
        inverses = stack.new_empty(stack.shape, dtype=dtype)
        for k, i in enumerate(wanted):
            if i in rests:
                inverses[k] = rests[i] / c
        _add_values(values, first, second, factors)
        others = [i for i in range(len(kinds)) if i not in factors and i not in wanted]
        by_gram = [i for i in wanted if i not in rests]
        for own in (others, by_gram):  # a factor that no gradient needs lives for the forward alone
            for some in batches(n, len(own), BATCHED_UP_TO):
                here = own[some]
                E = _matrices(here, wanted, stack, variables, parameters, kinds)
                P = inverse(_ridged(E, c, dtype))
                S = _factors(E, P, c)
                for e, s, i in zip(E.unbind(), S.unbind(), here, strict=True):
                    bad[i] = is_unresolved(e, s, kinds[i], eps)
                if own is by_gram:
                    _keep(inverses, P, [wanted.index(i) for i in here])
                made_here = dict(zip(here, S.unbind(), strict=True))
                _add_values(values, first, second, factors | made_here)
                needed = set(partners).union(others) if own is others else partners
                factors |= {i: s for i, s in made_here.items() if i in needed}
        of_pairs = [values[p] for p in range(len(first))]
        all_values = torch.stack(of_pairs) if of_pairs else parameters.new_zeros((0,))
        all_values = nan_where_unresolved(all_values, bad, first, second)
    kept = [factors[i] for i in partners]
    return all_values, stack, inverses, torch.stack(kept) if kept else inverses.new_empty((0, n, n))


def _matrices(
    here: Sequence[int], wanted: Sequence[int], stack: Tensor, variables: Sequence[Tensor],
    parameters: Tensor, kinds: Sequence[int],
) -> Tensor:  # fmt: skip
    """Gram matrices up to centering of some variables, all of them wanted or none."""
    if here[0] not in wanted:
        return gram_stack_of(variables, parameters, kinds, here)
    if list(here) == list(wanted):
        return stack
    at = [list(wanted).index(i) for i in here]
    return stack[at[0] : at[0] + 1] if len(at) == 1 else torch.stack([stack[k] for k in at])


def _keep(inverses: Tensor, P: Tensor, at: Sequence[int]) -> None:
    if len(at) == len(inverses):
        inverses.copy_(P)
        return
    for k, matrix in zip(at, P.unbind(), strict=True):
        inverses[k] = matrix


def _ridged(E: Tensor, c: float, dtype: torch.dtype) -> Tensor:
    """Kc + c I."""
    ridged = center_stack(E, dtype)
    ridged.diagonal(dim1=-2, dim2=-1).add_(c)
    return ridged


def _factors(E: Tensor, P: Tensor, c: float) -> Tensor:
    """S of Gram matrices up to centering."""
    Kc = center_stack(E, P.dtype)
    if P.dtype != torch.float64:  # I - c P cancels there
        S = Kc @ P
        return (S + S.mT) / 2
    S = P * -c
    S.diagonal(dim1=-2, dim2=-1).add_(1)
    # Beside a K that is small against c, I - c P cancels too; S is K / c there, to half of the digits. All of
    # them (ops/nhsic_factors.py) would cost a product more in every step.
    small = torch.linalg.vector_norm(E, dim=(-2, -1), dtype=torch.float64) <= FIRST_ORDER_GRAM * c
    return torch.where(small[:, None, None], Kc.div_(c), S)


def _add_values(
    values: dict[int, Tensor], first: Sequence[int], second: Sequence[int],
    factors: dict[int, Tensor],
) -> None:  # fmt: skip
    """The pairs whose factors are there now."""
    for p, (a, b) in enumerate(zip(first, second, strict=True)):
        if p not in values and a in factors and b in factors:
            values[p] = inner_product(factors[a], factors[b])


def _backward(
    grad: Tensor, variables: Sequence[Tensor], parameters: Tensor, stack: Tensor, inverses: Tensor,
    factors: Tensor, kinds: Sequence[int], first: Sequence[int], second: Sequence[int], eps: float,
    wanted: Sequence[int],
) -> list[Tensor]:  # fmt: skip
    n, partners = inverses.shape[-1], partners_of(first, second, wanted)
    c = eps * n
    grads: dict[int, Tensor] = {}
    with torch.autocast(parameters.device.type, enabled=False):
        for batch in batches(n, len(wanted), BATCHED_UP_TO):
            own = wanted[batch]
            T = partner_sum(grad, first, second, own, partners, factors)
            for t, i in zip(T.unbind(), own, strict=True):
                if kinds[i] == LINEAR:
                    grads[i] = _linear_gradient(t, variables[i], c)
            by_gram = [k for k, i in enumerate(own) if kinds[i] != LINEAR]
            if not by_gram:
                continue
            E, P = stack[batch], inverses[batch]
            if len(by_gram) < len(own):
                T, E, P = (torch.stack([m[k] for k in by_gram]) for m in (T, E, P))
            G = gradient_of_gram(P, T, E, c)
            chosen = [own[k] for k in by_gram]
            made = gradients_of(G, E, variables, parameters, kinds, chosen)
            grads |= dict(zip(chosen, made, strict=True))
    return [grads[i] for i in wanted]


def _linear_gradient(T: Tensor, x: Tensor, c: float) -> Tensor:
    """Of the features of a linear kernel, with T the sum of the factors of its partners."""
    made = linear_factor(x, c)
    gradient = 2 * made.rest @ (T.double() @ made.PX)
    return (gradient - gradient.mean(0, keepdim=True)).to(x.dtype)

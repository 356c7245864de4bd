# SPDX-License-Identifier: Apache-2.0
"""Why a measure has no value: the reason that an error gives, looked for only after it failed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bido_ext.ops._validate import readable
from bido_ext.ops.group import Group
from bido_ext.ops.linear_factor import linear_factor
from bido_ext.reference.gram_stack import GRAM, LABELS, LINEAR, gram_up_to_centering
from bido_ext.reference.resolution import too_coarse_for_ridge

#: Squares of larger features, summed up, are no float64 any more; nor are those of smaller Gram matrices.
LARGEST, SMALLEST_ENTRY = 1e150, 1e-138


def why_not_finite(group: Group, names: Sequence[str], eps: float | None = None) -> str:
    """The reason, in a sentence that names the variable and what to do.

    Args:
        group: Of the failed measure.
        names: Of its variables.
        eps: Of nhsic.
    """
    bad = [
        (name, kind)
        for name, v, kind in zip(names, group.variables, group.kinds, strict=True)
        if v.is_floating_point() and not bool(torch.isfinite(v).all())
    ]
    features = [name for name, kind in bad if kind != GRAM]
    if features:
        return f"{', '.join(features)} contain(s) NaN or Inf: the measure is undefined."
    if bad:
        return (
            f"The Gram matrix that the kernel made for {bad[0][0]} contains NaN or Inf: its features do, or "
            f"its entries overflow {str(group.dtype).removeprefix('torch.')}. Scale {bad[0][0]} down. (Or they "
            "are too small for float32, or differ by round-off only: scale up, or pass float64.)"
        )
    for i, (name, v, kind) in enumerate(zip(names, group.variables, group.kinds, strict=True)):
        if kind == LABELS:
            continue
        if float(v.detach().abs().amax()) > LARGEST:
            return f"The squares of {name} overflow float64: scale it down."
        reason = _of_ridge(name, v, group.parameters[i], kind, eps) if eps is not None else ""
        if reason:
            return reason
    for i, (name, v, kind) in enumerate(zip(names, group.variables, group.kinds, strict=True)):
        if kind < LABELS and bool((v != v[:1]).any()):
            E = gram_up_to_centering(v.detach(), group.parameters[i], kind, torch.float64)
            if float(E.abs().amax()) < SMALLEST_ENTRY:
                return (
                    f"Products of the entries of the Gram matrix of {name} underflow float64: scale {name} up, "
                    "or choose another bandwidth."
                )
    device = group.variables[0].device.type
    if device != "cpu" and group.dtype != torch.float64:  # no second try in float64 there
        return (
            f"float32 does not resolve the Gram matrices of {' and '.join(names)} on {device}: rows lie far "
            "apart against the bandwidth, or an outlier or the scale of the features leaves too few digits. "
            "Pass float64, or scale the features."
        )
    way = "." if group.dtype == torch.float64 else " or pass float64."
    return (
        f"The measure of {' and '.join(names)} is not finite although the features are: products of their "
        f"Gram matrices overflow. Scale the features down{way}"
    )


def check_statistic(name: str, value: Tensor, narrow: Tensor, **features: Tensor) -> None:
    """Raises if a number of some samples is not finite, or not in the dtype that is returned.

    Only where looking is free: on the CPU, and not under torch.compile.
    """
    if not readable(value) or bool(torch.isfinite(narrow)):
        return
    bad = [name for name, x in features.items() if not bool(torch.isfinite(x).all())]
    if bad:
        raise ValueError(f"{', '.join(bad)} contain(s) NaN or Inf: {name} is undefined.")
    if bool(torch.isfinite(value)):
        raise ValueError(
            f"{name} is {float(value.detach()):g}, which float32 does not hold: pass float64, or scale the "
            "features down."
        )
    raise ValueError(f"{name} overflows although the features are finite: scale them down.")


def _of_ridge(name: str, v: Tensor, parameter: Tensor, kind: int, eps: float) -> str:
    n = v.shape[0]
    if kind == LINEAR:
        if not bool(linear_factor(v, eps * n).unresolved):
            return ""
        return (
            f"nhsic with Linear() on {name}: float64 does not tell its small singular values from the ridge "
            f"sqrt(eps n), eps={eps:g}, beside the large ones. Scale {name} down, or raise eps."
        )
    dtype = v.dtype if kind == GRAM else torch.float64
    E = gram_up_to_centering(v, parameter, kind, torch.float64)
    if not bool(too_coarse_for_ridge(E, eps, dtype)):
        return ""
    what = "the Gram matrix given for" if kind == GRAM else "the Gram matrix of"
    wider = " Make it in float64, or raise eps." if dtype == torch.float32 else " Raise eps."
    return (
        f"nhsic: {what} {name} is not resolved by {str(dtype).removeprefix('torch.')}: its round-off is not "
        f"small against the ridge eps n, eps={eps:g}.{wider}"
    )

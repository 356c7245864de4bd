# SPDX-License-Identifier: Apache-2.0
"""How an op is declared: schema, default implementation, fake kernel and derivative, in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bido_ext.serving.row import add_contract

_library = torch.library.Library("bido_ext", "FRAGMENT")


def define_op(
    name: str,
    schema: str,
    *,
    default: Callable[..., Any],
    fake: Callable[..., Any],
    in_float64: Callable[..., Any] | None = None,
) -> None:
    """Declares ``bido_ext::name``.

    Args:
        name: The stem shared by every file of the op.
        schema: Arguments and results, for example ``"(Tensor x) -> Tensor"``.
        default: Implementation for every device without a kernel of its own.
        fake: Shapes and dtypes of the results, for torch.compile.
        in_float64: How the op runs again on the CPU where float32 does not do (bido_ext._float64).
    """
    _library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, default, "CompositeExplicitAutograd")
    add_contract(name, schema, default, in_float64)
    torch.library.register_fake(f"bido_ext::{name}", fake, lib=_library)


def define_derivative(
    name: str, backward: Callable[..., Any], setup_context: Callable[..., Any]
) -> None:
    """Declares the derivative of ``bido_ext::name``."""
    torch.library.register_autograd(
        f"bido_ext::{name}", backward, setup_context=setup_context, lib=_library
    )


def refuse_double_backward(name: str) -> None:
    """Makes the derivative of the backward op ``bido_ext::name`` an error, never a silent zero."""

    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(
            f"bido_ext::{name}: a second derivative is not supported. "
            "Compute the first gradient without create_graph=True, or use bido_ext.reference."
        )

    torch.library.register_autograd(f"bido_ext::{name}", backward, lib=_library)

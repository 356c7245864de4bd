# SPDX-License-Identifier: Apache-2.0
"""Choices by the number of samples that do not tie a traced graph to it.

With a dynamic batch n is a symbol. A plain comparison with it would become a condition of the graph: a
recompilation for n on the other side, and under torch.export an error.
"""

from __future__ import annotations

import torch


def surely(condition: bool | torch.SymBool) -> bool:
    """Whether the condition holds; False where it depends on a symbol. No condition of a graph either way."""
    if isinstance(condition, bool) and not torch.compiler.is_compiling():
        return condition
    # Tracing has loaded it; alone it takes a second to import.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)

# SPDX-License-Identifier: Apache-2.0
"""What serves a GPU without a kernel of ours reads no value back: its traced graph holds nothing that would."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from bido_ext.reference.kernel_entries import ENERGY, GAUSSIAN, LABELS, LAPLACIAN
from bido_ext.serving.implementations import functions_of
from bido_ext.serving.row import ROWS, named

WAITS = (
    "aten.item",
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "eigh",
    "svd",
    "linalg_cholesky.",
)


def arguments(op: str, kind: int, streaming: bool, n: int = 40) -> tuple[Any, ...]:
    x = [torch.rand(n, 7), torch.rand(n, 5), torch.arange(n) % 3]
    gamma = torch.full((3,), 0.1, dtype=torch.float64)
    group = x, gamma, [kind, kind, LABELS]
    pairs = [1, 1], [0, 2]
    return {
        "gaussian_gram": (x[0], gamma[0], True),
        "gram_stack": group,
        "double_center": (torch.rand(n, n),),
        "hsic": (*group, *pairs, False, 8 if streaming else n, 0 if streaming else -1),
        "nhsic": (*group, *pairs, 1e-5, True, [0, 1]),
    }[op]


@pytest.mark.parametrize("kind", [GAUSSIAN, LAPLACIAN, ENERGY])
@pytest.mark.parametrize(
    ("op", "implementation", "streaming"),
    [("gaussian_gram", "composed", False), ("gram_stack", "composed", False),
     ("double_center", "composed", False), ("hsic", "composed", False),
     ("hsic", "composed", True), ("nhsic", "composition", False)],
)  # fmt: skip
def test_nothing_waits_for_the_device(
    op: str, implementation: str, streaming: bool, kind: int
) -> None:
    functions, args = functions_of(op, implementation), arguments(op, kind, streaming)
    row = ROWS[op]

    def step(*args: Any) -> Any:
        result = functions[row.functions[0]](*args)
        if row.backward_of is None:
            return result
        return functions[row.functions[1]](*row.backward_of(named(row.functions[0], args), result))

    graph = make_fx(step, tracing_mode="fake")(*args).graph
    called = {str(node.target) for node in graph.nodes if node.op == "call_function"}
    assert called
    for word in WAITS:
        assert not [name for name in called if word in name], f"{op} calls {word}"

# SPDX-License-Identifier: Apache-2.0
"""What serves a GPU without a kernel of ours reads no value back: its traced graph holds nothing that would."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from benchmarks.algebra_model import WAITS
from bido_ext.reference.kernel_entries import ENERGY, GAUSSIAN, LABELS, LAPLACIAN, LINEAR
from bido_ext.serving.implementations import functions_of
from bido_ext.serving.row import ROWS, named

#: Of what a further argument says: whether hsic streams, or the norm of coco.
Variant = bool | str


def arguments(op: str, kind: int, variant: Variant, n: int) -> tuple[Any, ...]:
    x = [torch.rand(n, 7), torch.rand(n, 5), torch.arange(n) % 3]
    gamma = torch.full((3,), 0.1, dtype=torch.float64)
    group = x, gamma, [kind, kind, LABELS]
    pairs = [1, 1], [0, 2]
    return {
        "gaussian_gram": (x[0], gamma[0], True),
        "gram_stack": group,
        "double_center": (torch.rand(n, n),),
        "hsic": (*group, *pairs, False, 8 if variant else n, 0 if variant else -1),
        "nhsic": (*group, *pairs, 1e-5, variant == "float64", [0, 1]),
        "coco": (*group, *pairs, variant, True, [0, 1]),
    }[op]


def calls_of(op: str, implementation: str, variant: Variant, kind: int, n: int) -> set[str]:
    """The calls of PyTorch in the traced graph of a step."""
    functions, args = functions_of(op, implementation), arguments(op, kind, variant, n)
    row = ROWS[op]

    def step(*args: Any) -> Any:
        result = functions[row.functions[0]](*args)
        if row.backward_of is None:
            return result
        return functions[row.functions[1]](*row.backward_of(named(row.functions[0], args), result))

    graph = make_fx(step, tracing_mode="fake")(*args).graph
    return {str(node.target) for node in graph.nodes if node.op == "call_function"}


#: Op, implementation, variant, kernels (of algebra only whether it is linear counts), and samples: more than a
#: tile of the sweep, and than what is squared at once.
CASES = [
    *[(op, "composed", variant, kind, n)
      for op, variant, n in (("gaussian_gram", False, 40), ("gram_stack", False, 40),
                             ("double_center", False, 40), ("hsic", False, 40))
      for kind in (GAUSSIAN, LAPLACIAN, ENERGY, LINEAR)],
    # Streaming makes the same entries panel by panel; its graph is long.
    *[("hsic", "composed", True, kind, 12) for kind in (GAUSSIAN, LINEAR)],
    *[(op, "split", False, GAUSSIAN, 40) for op in ("gaussian_gram", "gram_stack", "hsic")],
    *[("nhsic", form, variant, kind, 140)
      for form in ("composed", "sweep", "refined")
      for variant in ("float64", "float32")
      for kind in (GAUSSIAN, LINEAR)],
    *[("coco", form, variant, GAUSSIAN, 140)
      for form, variant in (("composed", "fro"), ("composed", "spectral"),
                            ("squared", "spectral"), ("composition", "fro"))],
]  # fmt: skip


@pytest.mark.parametrize(("op", "implementation", "variant", "kind", "n"), CASES)
def test_nothing_waits_for_the_device(
    op: str, implementation: str, variant: Variant, kind: int, n: int
) -> None:
    called = calls_of(op, implementation, variant, kind, n)
    assert called
    for word in WAITS:
        assert not [name for name in called if word in name], f"{op} calls {word}"


@pytest.mark.parametrize(("kind", "call"), [(GAUSSIAN, "cholesky_inverse"), (LINEAR, "svd")])
def test_a_composition_that_waits_is_seen_to(kind: int, call: str) -> None:
    assert [name for name in calls_of("nhsic", "composition", "float64", kind, 40) if call in name]
    assert ROWS["nhsic"].composition_waits


def test_every_form_is_among_those_that_are_traced() -> None:
    forms = {(row.op, i.name) for row in ROWS.values() for i in row.implementations if i.portable}
    known = {(op, form) for op, form, *_ in CASES}
    assert forms <= known

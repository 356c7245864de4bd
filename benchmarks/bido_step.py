# SPDX-License-Identifier: Apache-2.0
"""The full BiDO step: sum_j 0.05 d(X, Z_j) - 0.5 d(Z_j, Y), value and gradients of every layer.

VGG16 on 64 x 64 images: X has 12288 columns, the five tapped layers 65536 ... 2048; integer labels.
"""

from __future__ import annotations

from functools import partial

from benchmarks import own, truth
from benchmarks.case import OWN, CaseSpec, OpCase, feature_bytes
from benchmarks.problem import make_step
from benchmarks.rivals import measure_rivals
from bido_ext.serving.floor import step_floor

DIMS = (12288, 65536, 32768, 16384, 8192, 2048)
NUM_CLASSES = 1000
ROWS = (64, 256, 1024)

#: n x n x n products nobody avoids: of X, and of each layer with its backward. Cholesky and inverse
#: are half a product each in nhsic, P T P two; in coco the square of X is half one, Kc Lc^2 one.
CUBIC = {"nhsic": (0.5, 2.5), "coco": (0.5, 1.0), "hsic": (0.0, 0.0)}


def case(spec: CaseSpec, measure: str) -> OpCase:
    """(n, dims) of spec."""
    if spec.num_classes is None:
        raise ValueError("a step needs num_classes.")
    of_x, of_layer = CUBIC[measure]
    input_dim, *dims = spec.dims
    return OpCase(
        spec=spec,
        make=partial(make_step, spec.n, spec.dims, spec.num_classes),
        implementations={OWN: partial(own.step, measure), **measure_rivals(measure, labels=True)},
        truth=partial(truth.measure_truth, measure),
        floor=step_floor(spec.n, input_dim, dims, of_x + of_layer * len(dims)),
        bytes_moved=feature_bytes(spec.n, (input_dim,), tuple(dims)),
    )


def spec(measure: str, n: int) -> CaseSpec:
    """The step of VGG16 with n samples."""
    return CaseSpec(f"bido_step_{measure}", n, DIMS, NUM_CLASSES)


def defaults(measure: str) -> list[CaseSpec]:
    """The published batch size, and larger ones."""
    return [spec(measure, n) for n in ROWS]


def smoke(measure: str) -> list[CaseSpec]:
    """Seconds."""
    return [CaseSpec(f"bido_step_{measure}", 32, (48, 64, 40, 24), 5)]

# SPDX-License-Identifier: Apache-2.0
"""A compact benchmark that runs from an installed package: ``bido bench``.

bido_ext against plain eager PyTorch and against the matrix products neither can avoid, after a
comparison with float64. The full harness, with more rivals, is benchmarks/ of the repository.
"""

from bido_ext.lab.experiments.bench.run import BenchSettings, GateError, run_bench
from bido_ext.lab.experiments.bench.table import bench_table

__all__ = ["BenchSettings", "GateError", "bench_table", "run_bench"]

# SPDX-License-Identifier: Apache-2.0
"""Everything that needs a GPU, within a budget of seconds: ``python -m benchmarks.gpu_check``."""

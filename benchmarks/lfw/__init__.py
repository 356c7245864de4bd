# SPDX-License-Identifier: Apache-2.0
"""The real-faces table: defences trained, attacked and judged on LFW (``python -m benchmarks.lfw``)."""

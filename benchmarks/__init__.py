# SPDX-License-Identifier: Apache-2.0
"""Benchmarks as data: cases, rivals, a correctness gate, times, memory. See benchmarks/README.md."""

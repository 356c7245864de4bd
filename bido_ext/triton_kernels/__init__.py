# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels: plain functions with the signatures of :mod:`bido_ext.ops`' defaults, no registration.

Importing this package needs triton; :mod:`bido_ext.serving` imports it when a CUDA tensor first arrives.
"""

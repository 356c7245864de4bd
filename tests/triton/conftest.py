# SPDX-License-Identifier: Apache-2.0
"""Where there is no GPU, the Triton kernels of this folder's tests run in Triton's interpreter."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported

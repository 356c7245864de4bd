# SPDX-License-Identifier: Apache-2.0
"""gaussian_gram with operands that the bulk copy engine carries; the backward is that of the other kernels."""

from __future__ import annotations

from functools import partial

from bido_ext.triton_kernels import gaussian_gram as plain
from bido_ext.triton_kernels.tma_gram import tma_gram

gaussian_gram = partial(plain.gaussian_gram, fill=tma_gram)
gaussian_gram_backward = plain.gaussian_gram_backward

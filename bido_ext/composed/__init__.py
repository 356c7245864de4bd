# SPDX-License-Identifier: Apache-2.0
"""Every op made of PyTorch's own products: what a hand-ordered composition reaches on any device.

The products are cuBLAS's, in the precision that the user allows; everything else is elementwise, in row panels
where no n x n matrix may exist. It is a candidate of its own on GPUs and the yardstick of the kernels. One
module per op, with the functions of its contract.
"""

#: Of GPUs: up to this n the n x n algebra of all variables, or of all pairs, is batched.
BATCHED_UP_TO = 1024

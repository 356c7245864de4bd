# SPDX-License-Identifier: Apache-2.0
"""Batch norm replaced by group norm, for trainings in which images must not meet."""

import math

from torch import nn

NORMS = ("batch", "group")
_MOST_GROUPS = 32


def use_group_norm(model: nn.Module) -> None:
    """Put a group norm in the place of each batch norm: 32 groups, or what divides the channels.

    As ``ModuleValidator.fix`` of Opacus; a model without batch norm stays as it is.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                channels = child.num_features
                groups = math.gcd(channels, _MOST_GROUPS)
                setattr(parent, name, nn.GroupNorm(groups, channels, affine=child.affine))

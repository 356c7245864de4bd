# SPDX-License-Identifier: Apache-2.0
"""BiDO for any training loop: the loss and the feature taps."""

from bido_ext.nn.bido_loss import BiDOLoss, DependenceTerms
from bido_ext.nn.feature_taps import FeatureTaps

__all__ = ["BiDOLoss", "DependenceTerms", "FeatureTaps"]

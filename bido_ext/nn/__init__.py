# SPDX-License-Identifier: Apache-2.0
"""BiDO for any training loop: the loss and the feature taps."""

from bido_ext.nn.bido_loss import BiDOLoss
from bido_ext.nn.feature_taps import FeatureTaps
from bido_ext.nn.micro_batches import MicroBatchedBiDO, StepLosses
from bido_ext.nn.objective import DependenceTerms

__all__ = ["BiDOLoss", "DependenceTerms", "FeatureTaps", "MicroBatchedBiDO", "StepLosses"]

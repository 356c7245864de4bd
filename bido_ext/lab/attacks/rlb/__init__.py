# SPDX-License-Identifier: Apache-2.0
"""RLB-MI: an agent for each class learns where in the latents the target is sure, by asking it.

Han et al., "Reinforcement Learning-Based Black-Box Model Inversion Attacks" (CVPR 2023).
"""

from .agents import Agents
from .inversion import RLB, RlbConfig, invert_rlb, reward

__all__ = ["RLB", "Agents", "RlbConfig", "invert_rlb", "reward"]

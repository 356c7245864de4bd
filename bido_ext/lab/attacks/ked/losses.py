# SPDX-License-Identifier: Apache-2.0
"""KED-MI's losses (Chen et al., ICCV 2021, section 3.2), on logits over K classes.

With the K + 1st logit fixed at 0 the probability of "real" is exp(l) / (1 + exp(l)), l the
logarithm of the summed exponentials of the K logits.
"""

import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Mean cross-entropy of ``logits`` (n, K) against the target's ``probabilities`` (n, K)."""
    return F.cross_entropy(logits, probabilities)


def realness_loss(logits: Tensor) -> Tensor:
    """-log p(real) of each image: softplus(l) - l, written without the difference."""
    return F.softplus(-logits.logsumexp(1))


def fakeness_loss(logits: Tensor) -> Tensor:
    """-log p(fake) of each image: softplus(l)."""
    return F.softplus(logits.logsumexp(1))


def feature_matching(fake: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference of the two batches' mean features."""
    return (fake.mean(0) - real.mean(0)).abs().mean()


def mean_entropy(logits: Tensor) -> Tensor:
    """Entropy of the predicted class distribution, averaged over the batch."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1).mean()

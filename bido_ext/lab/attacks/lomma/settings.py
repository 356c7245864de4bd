# SPDX-License-Identifier: Apache-2.0
"""What LOMMA adds to the settings of the search it goes with."""

from bido_ext.lab.attacks.adversarial import AUTO
from bido_ext.lab.data.augment import augmentation
from bido_ext.lab.training.checked import Count, Positive, Several, Share, Weight, checked

NONE = "none"


@checked
class LommaSettings:
    """The identity loss of a row is the mean over target and students of minus the logit of the wanted
    class, + lam * mean over features of (the target's feature - its mean over public images)^2.

    Attributes:
        lam: weight of the feature term; published: 1.
        regularised_by: public images that the mean is taken over, at most.
        students: networks distilled from the target, comma-separated: names of ``bido list models``
            or ``small-N`` with N stages of convolution at each size; "auto": published EfficientNet-b0,
            b1, b2 for colour images from 64 pixels on, small-1, small-2, small-3 otherwise; "none":
            the target alone.
        student_steps: of SGD; default: the published 20 epochs of 30,000 public images.
        student_lr, student_momentum, student_decay: of SGD.
        student_batch: public images in a step.
        student_width: scales the channel counts of ``small-N``.
        augment: of the public images in the distillation, as of the GAN's training.
    """

    lam: Weight = 1.0
    regularised_by: Count = 5000
    students: str = AUTO
    student_steps: Count = 9_400
    student_lr: Positive = 0.01
    student_momentum: Share = 0.9
    student_decay: Weight = 1e-4
    student_batch: Several = 64
    student_width: Positive = 1.0
    augment: str = AUTO

    def __post_init__(self) -> None:
        if self.augment != AUTO:
            augmentation(self.augment)

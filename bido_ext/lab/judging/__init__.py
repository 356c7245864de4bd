# SPDX-License-Identifier: Apache-2.0
"""Judging a model-inversion attack: attack accuracy, distances and pictures.

The judge is an evaluation classifier that the attacker never used.  It exposes ``forward(x) ->
logits`` and ``features(x) -> (n, d)``, its penultimate layer.
"""

from bido_ext.lab.judging.distances import feature_distance, frechet_distance, knn_distance
from bido_ext.lab.judging.embedding import PrivateReference, classify, embed
from bido_ext.lab.judging.inception import load_inception
from bido_ext.lab.judging.interval import clustered_interval, identity_interval, wilson_interval
from bido_ext.lab.judging.metrics import AttackMetrics, ClassMetrics, judge_attack
from bido_ext.lab.judging.perceptual import load_lpips
from bido_ext.lab.judging.pictures import save_comparison
from bido_ext.lab.judging.prdc import Prdc, prdc, prdc_of_classes
from bido_ext.lab.judging.second import SecondJudge, SecondOpinion, check_second, second_opinion

__all__ = [
    "AttackMetrics",
    "ClassMetrics",
    "Prdc",
    "PrivateReference",
    "SecondJudge",
    "SecondOpinion",
    "check_second",
    "classify",
    "clustered_interval",
    "embed",
    "feature_distance",
    "frechet_distance",
    "identity_interval",
    "judge_attack",
    "knn_distance",
    "load_inception",
    "load_lpips",
    "prdc",
    "prdc_of_classes",
    "save_comparison",
    "second_opinion",
    "wilson_interval",
]

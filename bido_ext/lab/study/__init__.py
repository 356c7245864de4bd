# SPDX-License-Identifier: Apache-2.0
"""User study: people say whose reconstruction resembles a private image most."""

from bido_ext.lab.study.answers import Answers, read_answers
from bido_ext.lab.study.build import build_study, write_page
from bido_ext.lab.study.key import Item, Study, key_beside, read_study, write_study
from bido_ext.lab.study.private import private_of
from bido_ext.lab.study.score import DefenceCount, Score, score, score_table
from bido_ext.lab.study.sources import Candidate, find_candidates

__all__ = [
    "Answers",
    "Candidate",
    "DefenceCount",
    "Item",
    "Score",
    "Study",
    "build_study",
    "find_candidates",
    "key_beside",
    "private_of",
    "read_answers",
    "read_study",
    "score",
    "score_table",
    "write_page",
    "write_study",
]

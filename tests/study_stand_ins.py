# SPDX-License-Identifier: Apache-2.0
"""A small study, and answers as a participant's page saves them."""

from __future__ import annotations

import torch

from bido_ext.lab.data.image_set import ImageSet
from bido_ext.lab.study import Candidate, Study, build_study

NAMES = ("none", "mid", "bido-hsic-0.05-0.5")


def some_candidates(names=NAMES, classes=5, restarts=2) -> list[Candidate]:
    """Flat pictures: the grey of a picture tells defence, class and restart."""
    return [
        Candidate(
            name,
            torch.stack(
                [
                    torch.stack(
                        [
                            torch.full((1, 8, 8), (100 * d + 10 * c + r) / 255.0)
                            for c in range(classes)
                        ]
                    )
                    for r in range(restarts)
                ]
            ),
            tuple(range(classes)),
        )
        for d, name in enumerate(names)
    ]


def some_private(classes=5) -> ImageSet:
    labels = torch.arange(classes).repeat(3)
    random = torch.Generator().manual_seed(0)
    return ImageSet(torch.rand(len(labels), 3, 8, 8, generator=random), labels)


def a_study(seed=0, **changes) -> Study:
    return build_study(some_candidates(), some_private(), seed=seed, **changes)[0]


def the_answers(study: Study, choices, participant="p1") -> dict:
    """The document that the page saves; ``choices`` are places, None for an open item."""
    answers = [
        {
            "label": item.label,
            "choice": choice,
            "defence": study.defences[item.order[choice - 1]] if choice else None,
            "seconds": 1.5,
        }
        for item, choice in zip(study.items, choices, strict=True)
        if choice is not None
    ]
    return {
        "format": "bido_ext.study_answers",
        "version": 1,
        "study": study.to_dict(),
        "participant": participant,
        "started": "2026-01-01T00:00:00Z",
        "saved": "2026-01-01T00:05:00Z",
        "complete": None not in choices,
        "answers": answers,
    }

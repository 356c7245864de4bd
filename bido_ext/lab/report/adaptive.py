# SPDX-License-Identifier: Apache-2.0
"""What adaptive attackers reached beside the plain one, in words and as a table."""

from __future__ import annotations

from bido_ext.lab.report.grid import grid
from bido_ext.lab.report.results import Results
from bido_ext.lab.report.table import attack_text
from bido_ext.lab.report.tradeoff import tradeoff_of, tradeoff_text


def adaptive_text(results: Results) -> str:
    """Each row under the plain attack and under each adaptive one; empty if there is none.

    What follows is the comparison at equal natural accuracy, where the controls meet the same
    attacker.
    """
    kinds = results.attackers
    if not kinds:
        return ""
    lines = [
        (
            row.label,
            row.weights_text,
            attack_text(row.attack),
            *(attack_text(row.attacks[kind]) for kind in kinds),
        )
        for row in results.rows
    ]
    parts = [grid(("defence", "weights", "on the model", *(f"on {kind}" for kind in kinds)), lines)]
    for kind in kinds:
        view = results.under(kind)
        if told := tradeoff_text(view, tradeoff_of(view)):
            parts.append(f"Attack on {kind}. {told}")
    return "\n\n".join(parts)

# SPDX-License-Identifier: Apache-2.0
"""What the numbers of a run say, in words; nothing here is written before the run."""

from __future__ import annotations

from bido_ext.lab.report.results import Results, Row

# A defence that costs more natural accuracy than this is named with its price, not as the winner.
ACCEPTED_LOSS = 0.02


def headline(results: Results) -> str:
    """One or two sentences: did the attack work at all, and did a defence lower it beyond noise.

    A defence counts as lowering attack accuracy only if its 95% interval lies wholly below that of
    the undefended model. Where adaptive attackers ran, each model counts as the strongest of its
    attackers left it.
    """
    strongest = bool(results.attackers)
    if strongest:
        results = results.under_the_strongest()
    if not results.evaluator.is_met:
        return (
            f"The evaluation classifier reaches only {_percent(results.evaluator.test_accuracy)} "
            f"where {_percent(results.evaluator.required_accuracy)} is required, so the attack "
            "accuracies of this run prove nothing."
        )
    base = results.undefended
    if base is None:
        return "No undefended model was attacked, so this run cannot say what a defence gains."
    chance = results.task["chance_attack_accuracy"]
    before = _attack(base)
    if base.attack.ci_low <= chance:
        return (
            f"The attack succeeds in {before} of its reconstructions of the undefended model, no "
            f"better than chance ({_percent(chance)}): this run proves nothing about the defences."
        )
    who = "strongest attack on each model (plain or adaptive)" if strongest else "attack"
    opening = f"Without a defence the {who} succeeds in {before} of its reconstructions"
    defended = [row for row in results.rows if row.defence != "none"]
    if not defended:
        return f"{opening}; no defence was run."
    better = [row for row in defended if row.attack.ci_high < base.attack.ci_low]
    cheap = [row for row in better if _loss(row, base) <= ACCEPTED_LOSS]
    if cheap:
        best = min(cheap, key=lambda row: row.attack.attack_accuracy)
        return (
            f"{opening}; {_name(best)} lowers that to {_attack(best)} at a cost of "
            f"{_points(_loss(best, base))} of natural accuracy "
            f"({_percent(base.natural_accuracy, 2)} to {_percent(best.natural_accuracy, 2)}; "
            "one training seed)."
        )
    if better:
        best = min(better, key=lambda row: _loss(row, base))
        return (
            f"{opening}; no defence of this run lowers that at a cost of at most "
            f"{_points(ACCEPTED_LOSS)} of natural accuracy. The cheapest that lowers it, "
            f"{_name(best)}, reaches {_attack(best)} and costs {_points(_loss(best, base))} "
            "(one training seed)."
        )
    closest = min(defended, key=lambda row: row.attack.attack_accuracy)
    return (
        f"{opening}; no defence of this run lowers that beyond the noise. The lowest, "
        f"{_name(closest)}, is {_attack(closest)}."
    )


def _loss(row: Row, base: Row) -> float:
    return base.natural_accuracy - row.natural_accuracy


def _name(row: Row) -> str:
    return f"{row.label} ({row.weights_text})" if row.weights else row.label


def _attack(row: Row) -> str:
    attack = row.attack
    return (
        f"{_percent(attack.attack_accuracy)} "
        f"(95% CI {100 * attack.ci_low:.0f} to {100 * attack.ci_high:.0f}%)"
    )


def _percent(fraction: float, digits: int = 1) -> str:
    return f"{100 * fraction:.{digits}f}%"


def _points(fraction: float) -> str:
    return f"{100 * fraction:.2f} points"

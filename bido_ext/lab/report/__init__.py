# SPDX-License-Identifier: Apache-2.0
"""From the numbers of a run to ``results.json``, the trade-off plot and one HTML file."""

from bido_ext.lab.report.adaptive import adaptive_text
from bido_ext.lab.report.headline import headline
from bido_ext.lab.report.html import write_report
from bido_ext.lab.report.plot import save_tradeoff
from bido_ext.lab.report.results import (
    AdaptiveAttack,
    EvaluatorResult,
    Results,
    Row,
    read_results,
    write_results,
)
from bido_ext.lab.report.table import second_judge_text, text_table
from bido_ext.lab.report.tradeoff import Tradeoff, tradeoff_of, tradeoff_text

__all__ = [
    "AdaptiveAttack",
    "EvaluatorResult",
    "Results",
    "Row",
    "Tradeoff",
    "adaptive_text",
    "headline",
    "read_results",
    "save_tradeoff",
    "second_judge_text",
    "text_table",
    "tradeoff_of",
    "tradeoff_text",
    "write_report",
    "write_results",
]

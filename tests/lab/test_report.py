# SPDX-License-Identifier: Apache-2.0
"""results.json, headline, table and the HTML file."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from stand_ins import a_row, some_results

from bido_ext.lab.judging import SecondJudge, SecondOpinion
from bido_ext.lab.report import (
    AdaptiveAttack,
    Results,
    adaptive_text,
    headline,
    read_results,
    save_tradeoff,
    text_table,
    write_report,
    write_results,
)
from bido_ext.lab.report.plot import tradeoff_figure

NONE = a_row("none", 0.99, 0.8)
STRONG = a_row("bido-hsic", 0.985, 0.3, {"lambda_x": 0.1, "lambda_y": 1.0})
COSTLY = a_row("mid", 0.90, 0.3, {"beta": 0.2})
WEAK = a_row("bido-coco", 0.99, 0.75, {"lambda_x": 1.0, "lambda_y": 50.0})


def test_results_survive_the_way_through_the_file(tmp_path):
    opinion = SecondOpinion(0.5, 0.4, 0.6, 0.45, 0.1, 0.05, 0.15, 0.6)
    judged = replace(STRONG, second=SecondJudge("lenet3", 0.97, opinion))
    results = some_results(NONE, judged)
    path = write_results(results, tmp_path / "new" / "results.json")
    assert read_results(path) == results
    document = json.loads(path.read_text())
    assert (document["format"], document["version"]) == ("bido_ext.results", 1)
    documented = Results.from_dict.__globals__["__doc__"]
    for key in (*document, *document["rows"][0], *document["rows"][0]["attack"]):
        assert re.search(rf"\b{key}\b", documented), f"{key} is not documented"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "must be a JSON object"),
        ({"version": 2}, "version 1, got 2"),
        ({"rows": [{"name": "x"}]}, "lack a field"),
    ],
)
def test_other_documents_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Results.from_dict({**some_results(NONE).to_dict(), **change})


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"format"')
    with pytest.raises(ValueError, match=r"results\.json is not valid JSON"):
        read_results(path)


@pytest.mark.parametrize(
    ("rows", "accuracy", "expected"),
    [
        ((NONE, STRONG, COSTLY, WEAK), 0.99, "label of bido-hsic .* lowers that to 30.0%.*0.50 p"),
        (
            (NONE, COSTLY, WEAK),
            0.99,
            "no defence .* at most 2.00 points.*label of mid.*9.00 points",
        ),
        ((NONE, WEAK), 0.99, "beyond the noise.*label of bido-coco .* 75.0%"),
        ((NONE,), 0.99, "no defence was run"),
        ((a_row("none", 0.99, 0.2), STRONG), 0.99, "no better than chance.*proves nothing"),
        ((STRONG,), 0.99, "No undefended model"),
        ((NONE, STRONG), 0.5, "evaluation classifier reaches only 50.0%.*prove nothing"),
    ],
)
def test_the_headline_says_what_the_numbers_say(rows, accuracy, expected):
    assert re.search(expected, headline(some_results(*rows, evaluator_accuracy=accuracy)))


def adapted(row, accuracy):
    """``row`` with an adaptive attacker that reached ``accuracy``."""
    other = a_row(row.name, row.natural_accuracy, accuracy)
    one = AdaptiveAttack("surrogate", other.attack, 0.5, "picture.png", 2.0, {"steps": 3})
    return replace(row, adaptive=(one,))


def test_a_defence_that_an_adaptive_attacker_undoes_is_not_praised(tmp_path):
    results = some_results(adapted(NONE, 0.7), adapted(STRONG, 0.82))
    assert "lowers that to 30.0%" in headline(some_results(NONE, STRONG))
    told = headline(results)
    assert re.search("strongest attack on each model .*80.0%.*beyond the noise.* 82.0%", told)
    assert results.under("surrogate").rows[0].attack.attack_accuracy == 0.7
    table = adaptive_text(results)
    assert re.search(r"label of bido-hsic .* 30.0%.* 82.0%", table)
    assert "on surrogate" in table
    assert adaptive_text(some_results(NONE, STRONG)) == ""
    assert not some_results(adapted(NONE, 0.7), STRONG).attackers, "not every row met it"
    path = write_results(results, tmp_path / "results.json")
    assert read_results(path) == results
    document = json.loads(path.read_text())
    for row in document["rows"]:
        del row["adaptive"]  # as earlier releases wrote it
    assert Results.from_dict(document).rows[0].adaptive == ()


def test_adaptive_rows_are_held_against_controls_that_meet_the_same_attacker():
    stopped = a_row("none", 0.9, 0.4)
    stopped = replace(stopped, name="stopped", config={"stop": 0.1})
    defended = a_row("bido-hsic", 0.945, 0.3, {"lambda_x": 0.1})
    results = some_results(adapted(NONE, 0.9), adapted(defended, 0.8), adapted(stopped, 0.7))
    assert re.search(
        "Attack on surrogate.*\n.*attack 80.0%, undefended 80.0%", adaptive_text(results)
    )


def test_the_table_has_a_line_for_each_row():
    lines = text_table(some_results(NONE, STRONG)).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("defence")
    assert "80.0% +- 15.0 [71.1, 86.7]" in lines[2]
    assert "lambda_x 0.1, lambda_y 1" in lines[3]
    alone = replace(NONE, attack=replace(NONE.attack, std_over_restarts=None))
    assert "+- n/a" in text_table(some_results(alone))


def test_the_report_is_one_file_with_every_defence_and_picture(tmp_path):
    rows = (NONE, STRONG, COSTLY, WEAK)
    results = some_results(*rows, folder=tmp_path)
    html = write_report(results, tmp_path / "report.html").read_text()
    for row in rows:
        assert html.count(row.label) >= 3  # table, picture, configuration
        assert row.commands[0] in html
    assert html.count("data:image/png;base64,") == len(rows)
    assert html.count("data:image/svg+xml;base64,") == 2  # the rows, and the trade-off
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "https://" not in html
    assert "http://" not in html
    assert headline(results).split("; ")[0] in html
    assert "a note &lt;on the protocol&gt;" in html
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".html"] + [".png"] * len(rows)
    assert "@media (prefers-color-scheme: dark)" in html
    assert set(re.findall(r"#[0-9a-f]{3,6}\b", html.split("@media print {")[1])) <= {
        *re.findall(r"#[0-9a-f]{3,6}\b", html.split("@media print {")[0]), "#228b50", "#c83c32",
    }, "a colour without its dark one"  # fmt: skip


def test_an_unmet_precondition_is_shown(tmp_path):
    results = some_results(NONE, evaluator_accuracy=0.5, folder=tmp_path)
    assert "Precondition NOT met" in write_report(results, tmp_path / "r.html").read_text()


def test_the_plot_shows_as_much_of_the_scale_as_the_attacks_need():
    def right(*accuracies):
        rows = [a_row("none", 0.9, accuracy) for accuracy in accuracies]
        results = some_results(*rows)
        return max(r.attack.ci_high for r in rows), tradeoff_figure(results).axes[0].get_xlim()[1]

    most, limit = right(0.0, 0.1)
    assert 100 * max(most, 0.2) < limit < 50  # chance is 20 %
    assert right(0.1, 0.9)[1] == pytest.approx(102)


def test_the_plot_takes_every_corner_of_the_scale(tmp_path):
    extremes = some_results(NONE, a_row("mid", 1.0, 0.0), a_row("own-defence", 0.0, 1.0))
    path = save_tradeoff(extremes, tmp_path / "tradeoff.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "prefers-color-scheme" in save_tradeoff(extremes, tmp_path / "tradeoff.svg").read_text()

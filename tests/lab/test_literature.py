# SPDX-License-Identifier: Apache-2.0
"""Published numbers: the data, the page made from it, and the row beside ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stand_ins import a_row, some_results

from bido_ext.lab.defences import DEFENCES, resolve_weights
from bido_ext.lab.experiments.recipes import recipe_names
from bido_ext.lab.report.literature import matching, published, published_text
from bido_ext.lab.report.literature_page import document

PAGE = Path(__file__).parents[2] / "docs" / "literature.md"


def test_the_page_is_what_the_data_say():
    text = PAGE.read_text(encoding="utf-8")
    assert document(text) == text, (
        "python -m bido_ext.lab.report.literature_page docs/literature.md"
    )
    for table in {row.table for row in published()}:
        assert f"<!-- table {table} -->" in text


def test_rows_are_percent_of_known_defences_and_recipes():
    for row in published():
        assert row.defence in DEFENCES
        assert row.source
        if row.weights:
            assert resolve_weights(row.defence, row.weights) == row.weights
        assert all(0 < value <= 100 for value in row.natural_accuracy + row.attack_accuracy)
        assert any(value > 1 for value in row.natural_accuracy + row.attack_accuracy) or (
            row.note
        ), "a share in place of percent"
        assert not row.recipe or row.recipe in recipe_names()


def test_every_number_of_the_boards_keeps_its_recipe():
    recipes = {
        v: row.recipe for row in published() if row.table == "boards" for v in row.natural_accuracy
    }
    wanted = (80.35, 79.85, 79.62, 78.97, 88.07, 91.33, 91.8)
    assert all(recipes[value] for value in wanted)


def a_run(row, attack="gmi"):
    results = some_results(row)
    config = {**results.config, "data": {"private": "mnist"}, "attack": {"name": attack}}
    return replace(results, config=config)


def on(arch, row):
    return replace(row, config={"arch": arch})


def test_the_same_setting_alone_is_shown():
    coco = on("mcnn", a_row("bido-coco", 0.99, 0.7, {"lambda_x": 1.0, "lambda_y": 50.0}))
    (found,) = matching(coco, a_run(coco), published())
    assert found.natural_accuracy == (99.51,)
    told = published_text(a_run(coco))
    assert "99.00%" in told
    assert "99.51 %" in told
    other = replace(coco, weights={"lambda_x": 1.0, "lambda_y": 5.0})
    assert published_text(a_run(other)) == ""
    assert published_text(a_run(on("lenet3", coco))) == ""
    stopped = replace(on("mcnn", a_row("none", 0.9, 0.5)), config={"arch": "mcnn", "stop": 0.1})
    assert published_text(a_run(stopped)) == ""
    whole = on("mcnn", a_row("none", 0.99, 0.5))
    assert "99.94 %" in published_text(a_run(whole))


def test_an_attack_accuracy_belongs_to_its_attack():
    row = on("torchvision/resnet152", a_row("none", 0.9, 0.5))
    results = a_run(row)
    results = replace(results, config={**results.config, "data": {"private": "facescrub"}})
    assert not matching(row, results, published())
    ppa = replace(results, config={**results.config, "attack": {"name": "ppa"}})
    (found,) = matching(row, ppa, published())
    assert found.attack_accuracy == (84, 88)


def test_a_name_of_no_table_is_left_alone():
    assert document("# a\n<!-- note -->\n") == "# a\n<!-- note -->\n"

# SPDX-License-Identifier: Apache-2.0
"""Published numbers: the data, the page made from it, and the row beside ours."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
from stand_ins import a_row, some_results

from bido_ext.lab.attacks import ATTACKS
from bido_ext.lab.defences import DEFENCES, resolve_weights
from bido_ext.lab.experiments.recipes import recipe_names
from bido_ext.lab.models.registry import MODELS
from bido_ext.lab.report.literature import (
    Published,
    comparable,
    matching,
    numbers,
    pairs,
    published,
    published_text,
    rows_of,
)
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
        percents = row.natural_accuracy + row.attack_accuracy + row.attack_accuracy_top5
        assert not percents or max(percents) > 1 or "below 1 %" in row.note, "a share for percent"
        assert percents or row.knn_distance or row.fid or row.note
        assert not row.recipe or row.recipe in recipe_names()


def test_top_5_is_no_less_than_top_1():
    for row in published():
        if row.attack_accuracy_top5:
            for first, five in zip(row.attack_accuracy, row.attack_accuracy_top5, strict=True):
                assert five >= first, row


def test_no_number_stands_there_twice():
    rows = published()
    assert len(set(map(repr, rows))) == len(rows)


def test_an_attack_accuracy_says_where_it_was_read():
    for row in published():
        if row.attack_accuracy:
            assert row.where
            assert row.url or row.kind == "told"


def test_our_names_are_used_where_we_have_the_thing():
    ours = [*MODELS, *ATTACKS]
    plain = {name.lower().replace("-", ""): name for name in ours}
    for row in published():
        for told in (row.model, row.attack):
            assert plain.get(told.lower().replace("-", ""), told) == told, row


def a_number(**changed):
    fields = {
        "table": "defended",
        "kind": "paper",
        "defence": "none",
        "source": "a paper",
        "where": "table 1",
        "url": "https://example.org",
        "attack": "gmi",
        "attack_accuracy": [50.0],
    }
    return {**fields, **changed}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"attack_acuracy": [1.0]}, "attack_acuracy"),
        ({"attack_accuracy": [101.0]}, "attack_accuracy"),
        ({"attack_accuracy": ["50"]}, "attack_accuracy"),
        ({"knn_distance": [-1.0]}, "knn_distance"),
        ({"identities": -1}, "identities"),
        ({"kind": "memory"}, "kind"),
        ({"url": ""}, "where and url must be told in a row of kind 'paper'"),
        ({"attack": ""}, "attack must be told"),
        ({"spread": [1.0, 2.0]}, "spread must have a value for each of 1 runs"),
        ({"attack_accuracy": [], "spread": [1.0]}, "spread must belong to an attack_accuracy"),
    ],
)
def test_a_row_that_is_not_as_it_should_be_is_refused(changed, sentence):
    assert rows_of({"version": 2, "rows": [a_number()]})
    with pytest.raises(ValueError, match=f"row 2 of literature.json: .*{sentence}"):
        rows_of({"version": 2, "rows": [a_number(), a_number(**changed)]})


def test_a_file_of_another_version_is_refused():
    with pytest.raises(ValueError, match="version of literature.json must be 2, got 3"):
        rows_of({"version": 3, "rows": []})


def test_the_file_says_its_own_format():
    text = resources.files("bido_ext.lab.report").joinpath("literature.json").read_text("utf-8")
    assert json.loads(text)["format"] == "bido_ext.literature"


def test_only_rows_of_one_table_of_one_source_are_compared():
    base = Published(**a_number())
    defended = replace(base, defence="ls", attack_accuracy=(20.0,))
    assert comparable(base, defended)
    for other in (
        replace(defended, source="another paper"),
        replace(defended, where="table 2"),
        replace(defended, data="celeba"),
        replace(defended, public="ffhq"),
        replace(defended, model="vgg16"),
        replace(defended, attack="ppa"),
        replace(defended, evaluator="facenet112"),
        replace(defended, identities=300),
        replace(defended, attack_accuracy=()),
    ):
        assert not comparable(base, other)
        assert pairs([base, other]) == []
    assert pairs([defended, base]) == [(base, defended)]


def test_the_pairs_of_the_page():
    found = {
        (one.source, one.defence, one.attack, base.attack_accuracy, one.attack_accuracy)
        for base, one in pairs(published())
    }
    assert ("AlignMI", "bido-hsic", "ppa", (57.89,), (35.11,)) in found
    # That attack on the undefended classifier was not printed; another paper's does not stand in.
    assert not any(attack == "ppa with TAA" for _, _, attack, _, _ in found)


def test_numbers_in_words():
    assert numbers((41.0, 2.5)) == "41, 2.5 %"
    assert numbers((41.0,), (6.28,)) == "41 ± 6.28 %"
    assert numbers((1155.02,), unit="") == "1155.02"
    assert numbers(()) == "–"


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
    found = matching(row, ppa, published())
    assert {one.attack_accuracy for one in found} == {(88.1,), (84.0,)}
    # AlignMI's generator is of FFHQ: its number is of a run with that public set alone.
    config = {**ppa.config, "data": {"private": "facescrub", "public": "ffhq"}}
    found = matching(row, replace(ppa, config=config), published())
    assert {one.attack_accuracy for one in found} == {(57.89,), (88.1,), (84.0,)}


def test_a_note_without_a_number_is_shown_beside_no_run():
    row = on("vgg16", a_row("none", 0.9, 0.5))
    results = a_run(row, attack="rlb")
    results = replace(results, config={**results.config, "data": {"private": "celeba"}})
    assert any(one.attack == "rlb" and one.model == "vgg16" for one in published())
    assert all(one.attack != "rlb" for one in matching(row, results, published()))


def test_a_name_of_no_table_is_left_alone():
    assert document("# a\n<!-- note -->\n") == "# a\n<!-- note -->\n"

# SPDX-License-Identifier: Apache-2.0
"""Every defence against every attack: models are trained once, and the table says what was found."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.lab.attacks import ATTACKS
from bido_ext.lab.defences import DEFENCES
from bido_ext.lab.experiments.arena import (
    ArenaPlace,
    arena_names,
    load_arena,
    run_arena,
    run_one,
    sweeps_of,
    write_table,
)
from bido_ext.lab.experiments.arena.run import rows_of
from bido_ext.lab.experiments.narrator import Narrator
from bido_ext.lab.experiments.recipes.attack_step import AttackFolders
from bido_ext.lab.experiments.stage import RunOptions
from bido_ext.lab.report import read_results
from bido_ext.lab.report.arena import (
    ArenaCell,
    ArenaResults,
    arena_text,
    read_arena,
)
from bido_ext.lab.report.arena_page import write_arena

QUIET = RunOptions(on_change="rerun", progress=False)
SMALL = """
title = "Two attacks"
recipe = "mnist-mcnn-none"
[target]
lr = 2e-3
[[attacks]]
name = "gmi"
settings = { steps = 7 }
[[attacks]]
name = "brep"
[[models]]
defence = "none"
[[models]]
defence = "bido-hsic+ls"
seeds = [3]
"""


pytestmark = pytest.mark.usefixtures("one_thread")


def _written(tmp_path, text=SMALL):
    path = tmp_path / "small.toml"
    path.write_text(text)
    return str(path)


def test_models_are_trained_once_and_meet_every_attack(tmp_path):
    arena, training = load_arena(_written(tmp_path), smoke=True)
    arena = replace(arena, models=arena.models[:1])
    place, told = ArenaPlace(tmp_path / "out", smoke=True), io.StringIO()
    results = run_arena(
        arena, training, place, command="bido arena", options=QUIET, narrator=Narrator(10, told)
    )
    assert [(cell.model, cell.attack) for cell in results.cells] == [
        ("none", "gmi"),
        ("none", "brep"),
    ]
    assert len({cell.natural_accuracy for cell in results.cells}) == 1
    # The evaluation classifier, the classifier, and the generator that both attacks search in.
    assert told.getvalue().count("already done with this configuration, reused") == 3
    (gan,) = place.out.rglob("gan.pt")
    assert gan.parent.parent == place.out / "seed-0" / "priors"
    assert read_arena(place.out / "arena.json") == results
    page = (place.out / "arena.html").read_text()
    for cell in results.cells:
        swept = read_results((place.out / cell.report).parent / "results.json")
        assert swept.rows[0].attack.attack_accuracy == cell.attack_accuracy
        assert f'href="{cell.report}"' in page
        assert (place.out / cell.report).is_file()
    (alone, _) = sweeps_of(arena, training, smoke=True)
    swept = run_one(alone, place, options=QUIET, narrator=Narrator(10, io.StringIO()))
    assert swept.rows[0].attack.attack_accuracy == results.cells[0].attack_accuracy
    assert write_table(arena, sweeps_of(arena, training, smoke=True), place) == replace(
        results, command="", created=results.created
    )
    told = io.StringIO()
    again = run_arena(arena, training, place, options=QUIET, narrator=Narrator(10, told))
    assert [c.attack_accuracy for c in again.cells] == [c.attack_accuracy for c in results.cells]
    assert told.getvalue().count("already done with this configuration, reused") >= 6


def test_the_table_so_far_is_of_finished_sweeps_with_these_settings(tmp_path):
    arena, training = load_arena(_written(tmp_path), smoke=True)
    arena = replace(arena, models=arena.models[:1])
    place = ArenaPlace(tmp_path / "out", smoke=True)
    sweeps = sweeps_of(arena, training, smoke=True)
    with pytest.raises(ValueError, match="has no finished sweep of"):
        write_table(arena, sweeps, place)
    assert not (place.out / "arena.json").exists()
    swept = run_one(sweeps[1], place, options=QUIET, narrator=Narrator(10, io.StringIO()))
    results = write_table(arena, sweeps, place)
    assert [cell.attack for cell in results.cells] == ["brep"]
    assert (results.done, results.sweeps) == (1, 2)
    assert read_arena(place.out / "arena.json") == results
    assert sweeps[1].made(swept, smoke=True)
    assert not sweeps[0].made(swept, smoke=True)
    (row,) = swept.rows
    attack = {**swept.config["attack"], "steps": 1000}
    for changed in (
        replace(swept, rows=()),
        replace(swept, rows=(replace(row, name="other"),)),
        replace(swept, rows=(replace(row, config={**row.config, "epochs": 50}),)),
        replace(swept, config={**swept.config, "attack": attack}),
        replace(swept, config={**swept.config, "evaluator": dict(row.config)}),
    ):
        assert not sweeps[1].made(changed, smoke=True)


def test_generators_are_shared_by_their_settings(tmp_path):
    here = AttackFolders(tmp_path / "run", tmp_path / "sweep", tmp_path / "models" / "none")
    there = replace(here, priors=tmp_path / "priors")
    wgan, ked = ATTACKS["gmi"].prior, ATTACKS["ked"].prior
    assert here.prior(wgan, wgan.settings("quick"), "data", 0, "") == tmp_path / "sweep" / "prior"
    assert here.prior(ked, ked.settings("quick"), "data", 0, "-x") == tmp_path / "run" / "prior-x"
    plain = there.prior(wgan, wgan.settings("quick"), "data", 0, "")
    assert plain == there.prior(ATTACKS["brep"].prior, wgan.settings("quick"), "data", 0, "")
    others = [
        there.prior(wgan, wgan.settings("paper"), "data", 0, ""),
        there.prior(wgan, wgan.settings("quick"), "other data", 0, ""),
        there.prior(wgan, wgan.settings("quick"), "data", 100, ""),
        there.prior(ked, ked.settings("quick"), "data", 0, ""),
    ]
    assert len({plain, *others}) == 5
    owned = there.prior(ked, ked.settings("quick"), "data", 0, "-surrogate")
    assert owned == others[-1].parent / "none-surrogate"


def test_a_fresh_start_is_another_folder(tmp_path):
    arena, training = load_arena(_written(tmp_path), smoke=True)
    place = ArenaPlace(tmp_path / "out", smoke=True)
    with pytest.raises(ValueError, match="take another folder"):
        run_arena(arena, training, place, options=replace(QUIET, fresh=True))
    assert not place.out.exists()


def test_the_files_settings_reach_the_rows(tmp_path):
    arena, training = load_arena(_written(tmp_path))
    assert arena.all_seeds == (0, 3)
    (plain,) = rows_of(arena, training, arena.attacks[0], 0, smoke=False)
    (mixed,) = rows_of(arena, training, arena.attacks[1], 3, smoke=False)
    assert (plain.recipe.target.defence, plain.recipe.target.lr, plain.recipe.target.seed) == (
        "none", 2e-3, 0,
    )  # fmt: skip
    assert plain.recipe.attack.settings["steps"] == 7
    assert plain.recipe.attack.settings["restarts"] == ATTACKS["gmi"].settings("quick").restarts
    assert mixed.recipe.target.defence == "bido-hsic+ls"
    assert {mixed.recipe.target.seed, mixed.recipe.attack.settings["seed"]} == {3}
    assert mixed.recipe.attack.name == "brep"


@pytest.mark.parametrize("name", arena_names())
def test_arenas_of_the_package(name):
    if name == "mnist":
        pytest.importorskip("opacus")
    arena, training = load_arena(name)
    assert {attack.name for attack in arena.attacks} <= set(ATTACKS)
    named = {part for model in arena.models for part in model.defence.split("+")}
    missing = set(DEFENCES) - named
    assert all(any(each in note for note in arena.notes) for each in missing), missing
    seeds = arena.all_seeds
    rows = rows_of(arena, training, arena.attacks[0], seeds[0], smoke=False)
    assert len(rows) == len(arena.models) + len(arena.controls)
    three = [m.defence for m in arena.models if len(arena.seeds_of(m)) == 3]
    assert three[0] == "none"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('name = "brep"', 'name = "gmi"'), "attacks must come once each"),
        (('name = "brep"', 'name = "bred"'), "attacks[1]"),
        (('defence = "none"', 'defence = "nothing"'), "models[0]"),
        (("seeds = [3]", "seed = 3"), "did you mean 'seeds'?"),
        (("steps = 7", "steps = 0"), "steps must be at least 1"),
        (("lr = 2e-3", "lr = 0.0"), "lr must be positive"),
        (('title = "Two attacks"', 'title = "Two attacks"\ncontrols = [1.5]'), "controls"),
        (('recipe = "mnist-mcnn-none"', 'recipe = "mnist"'), "recipe must be one of"),
        (('recipe = "mnist-mcnn-none"', ""), "the key 'recipe' is missing"),
        (("lr = 2e-3", 'defence = "ls"'), "defence must stand in [[models]]"),
        (('name = "brep"', 'name = "brep"\npreset = "quikc"'), "preset must be one of"),
        (('[[models]]\ndefence = "none"\n[[models]]', "[[model]]"), "needs at least one"),
    ],
)  # fmt: skip
def test_mistakes_in_the_file_are_named_before_anything_runs(tmp_path, change, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        load_arena(_written(tmp_path, SMALL.replace(*change)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('defence = "none"', 'defence = "tl-dmi"'), "tl-dmi-0.6: .* needs pretrained"),
        (('defence = "none"', 'defence = "rolss"'), "rolss-1-0: .* this network has none"),
        (("seeds = [3]", "training = { epochz = 3 }"), "did you mean 'epochs'"),
    ],
)
def test_a_defence_that_cannot_be_had_is_refused_before_the_first_training(tmp_path, change, words):
    path = _written(tmp_path, SMALL.replace(*change))
    run = CliRunner().invoke(app, ["arena", path, "--out", str(tmp_path / "out")])
    assert run.exit_code == 2
    assert re.search(words, run.output), run.output
    assert not (tmp_path / "out").exists()


def test_no_such_arena():
    with pytest.raises(ValueError, match="arena must be one of lfw64, mnist, or"):
        load_arena("mnits")


def _cell(model, attack, seed, found, natural=0.9, difference=None, spread=0.1, stop=1.0):
    bounds = (None, None) if difference is None else (difference - spread, difference + spread)
    control = None if difference is None else found - difference
    return ArenaCell(
        model, model.split("-")[0], model, {}, stop, attack, seed, natural, found, found - 0.1,
        found + 0.1, control, difference, *bounds, {"training": 1.0, "attack": 2.0}, "r.html",
    )  # fmt: skip


def _results(*cells, sweeps=3):
    return ArenaResults("a", "A & B", "bido arena", ("gmi", "ked"), sweeps, chance=0.2, cells=cells)


def test_a_row_is_the_mean_over_seeds_and_a_star_needs_every_seed():
    results = _results(
        _cell("none", "gmi", 0, 0.8),
        _cell("none-stopped", "gmi", 0, 0.6, 0.7, stop=0.5),
        _cell("ls", "gmi", 0, 0.5, 0.8, -0.2),
        _cell("ls", "gmi", 1, 0.3, 0.6, -0.4),
        _cell("mid", "gmi", 0, 0.5, 0.8, -0.05),
        _cell("mid", "gmi", 1, 0.3, 0.6, -0.4),
        _cell("ls", "ked", 0, 0.9, 0.8),
    )
    rows = {row.model: row for row in results.rows()}
    assert list(rows) == ["none", "ls", "mid", "none-stopped (stopped at 50 %)"]
    ls, mid = rows["ls"], rows["mid"]
    assert (ls.seeds, round(ls.natural, 6)) == (2, 0.7)
    assert round(ls.attacks["gmi"], 6) == 0.4
    assert round(ls.differences["gmi"], 6) == -0.3
    assert (ls.sure["gmi"], mid.sure["gmi"], ls.sure["ked"]) == (True, False, False)
    text = arena_text(results)
    assert "40.0 (-30.0*)" in text
    assert "40.0 (-22.5)" in text
    assert "| 90.0\n" in text
    assert "3 of 3 sweeps" not in text
    assert results.done == 3


def test_what_is_missing_is_said_and_drawn_empty(tmp_path):
    results = _results(_cell("none", "gmi", 0, 0.8), _cell("ls", "gmi", 0, 0.5, 0.8, -0.2))
    assert "1 of 3 sweeps are done" in arena_text(results)
    write_arena(results, tmp_path)
    ElementTree.fromstring((tmp_path / "arena.svg").read_text())
    picture = (tmp_path / "arena.svg").read_text()
    assert picture.count('class="empty"') == 2
    assert picture.count('class="less"') == 1
    assert "dashed" in picture
    assert 'class="more"' not in picture
    assert "A &amp; B" in picture
    assert read_arena(tmp_path / "arena.json") == results


def test_another_document_is_no_arena(tmp_path):
    path = tmp_path / "arena.json"
    for text in ("{}", "[]", "no", json.dumps({"format": "bido_ext.arena", "version": 2})):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"arena\.json"):
            read_arena(path)


def test_the_plan_of_the_command_names_every_sweep(tmp_path):
    run = CliRunner().invoke(app, ["arena", _written(tmp_path), "--plan"])
    assert run.exit_code == 0, run.output
    assert run.stdout.splitlines() == [
        "1 gmi, seed 0: none",
        "2 brep, seed 0: none",
        "3 gmi, seed 3: bido-hsic+ls-0.05-0.5--0.05-0.5-0.75",
        "4 brep, seed 3: bido-hsic+ls-0.05-0.5--0.05-0.5-0.75",
        "2 trainings, 4 attacks",
    ]


def test_the_command_writes_the_table_so_far_or_says_that_there_is_none(tmp_path):
    out = str(tmp_path / "out")
    run = CliRunner().invoke(app, ["arena", _written(tmp_path), "--out", out, "--table"])
    assert run.exit_code == 2
    assert "has no finished sweep of small" in run.output
    both = ["arena", _written(tmp_path), "--out", out, "--table", "--sweep", "1"]
    run = CliRunner().invoke(app, both)
    assert run.exit_code == 2
    assert "exclude each other" in run.output


def test_all_but_the_plan_needs_a_folder(tmp_path):
    run = CliRunner().invoke(app, ["arena", _written(tmp_path)])
    assert run.exit_code == 2
    assert "--out must name the folder" in run.stderr


def test_a_sweep_that_is_not_in_the_plan_is_refused(tmp_path):
    command = ["arena", _written(tmp_path), "--out", str(tmp_path / "out"), "--sweep", "5"]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 2
    assert "--sweep must be 1 to 4" in run.output
    assert not (tmp_path / "out").exists()

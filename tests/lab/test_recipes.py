# SPDX-License-Identifier: Apache-2.0
"""Recipes as data: what the files say, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.lab.attacks import ATTACKS
from bido_ext.lab.data.small_data import write_small
from bido_ext.lab.experiments.presets import find_preset
from bido_ext.lab.experiments.recipes import load_recipe, recipe_names
from bido_ext.lab.experiments.recipes.attack_step import attack_settings
from bido_ext.lab.experiments.recipes.run import run_recipe
from bido_ext.lab.models import build_model

GOOD = """
title = "t"
published = "nothing"
[data]
private = "synthetic"
[target]
epochs = 1
[evaluator]
arch = "scnn"
[attack]
name = "gmi"
"""


def bido(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _recipe(tmp_path, text) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def test_the_rows_of_the_paper_are_there():
    names = recipe_names()
    for defence in ("none", "mid", "bido-hsic", "bido-coco"):
        for row in ("celeba64-vgg16", "mnist-mcnn", "cifar10-vgg16", "lfw64-vgg16"):
            assert f"{row}-{defence}" in names
    assert {"facescrub224-ppa", "facevolve", "ffhq", "celeba64-test"} <= set(names)
    assert not any(name.startswith("_") for name in names)


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid(name, smoke):
    recipe = load_recipe(name, smoke=smoke, seed=3)
    assert recipe.name == name
    assert recipe.published.strip()
    assert (recipe.target.seed, recipe.evaluator.seed, recipe.attack.settings["seed"]) == (3, 3, 3)
    with torch.device("meta"):
        for config, classes in ((recipe.target, 1000), (recipe.evaluator, 1000)):
            build_model(config.arch, classes, config.defence, config.arch_options)
    if recipe.attack.name in ATTACKS:
        settings = attack_settings(recipe, smoke=smoke)
        assert (settings.search.seed, settings.prior.seed) == (3, 3)


@pytest.mark.parametrize("name", recipe_names())
def test_coco_recipes_say_which_norm_they_take(name):
    recipe = load_recipe(name)
    told = any("takes the Frobenius norm" in difference for difference in recipe.differences)
    assert told == (recipe.target.defence == "bido-coco")


def test_the_paper_preset_says_which_norm_coco_takes():
    assert any("takes the Frobenius norm" in note for note in find_preset("paper").notes)


def test_published_settings():
    recipe = load_recipe("celeba64-vgg16-bido-hsic")
    target = recipe.target
    assert target.weights == {"lambda_x": 0.05, "lambda_y": 0.5}
    assert (target.optimizer, target.lr, target.weight_decay) == ("adam", 1e-4, 0.0)
    assert (target.epochs, target.batch_size, target.sampler) == (50, 64, "identity")
    assert recipe.attack.classes == 300
    assert "80.35" in recipe.published
    assert "not attack accuracy" in recipe.published
    ked = load_recipe("celeba64-vgg16-bido-hsic-ked")
    assert ked.target == target
    assert (ked.attack.name, dict(ked.attack.settings)) == ("ked", {"seed": 0})
    vmi = load_recipe("celeba64-resnet34-bido-hsic-vmi").target
    assert (vmi.arch, vmi.pretrained, vmi.milestones) == ("resnet-clsh", "", (60, 80))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[data]", "[date]"), "recipe mine: unknown key 'date'; did you mean 'data'"),
        (("epochs", "epoch"), "recipe mine.target: unknown key 'epoch'; did you mean 'epochs'"),
        (("epochs = 1", "epochs = 0"), "recipe mine.target: epochs must be at least 1, got 0"),
        (("epochs = 1", "epochs = 1.5"), "mine.target: epochs must be of type int, got 1.5"),
        (("epochs = 1", 'lr = "low"'), "mine.target: lr must be of type float, got 'low'"),
        (('name = "gmi"', ""), "recipe mine.attack: the key 'name' is missing"),
        (('"synthetic"', '"faces"'), "recipe mine.data: data set must be one of"),
        (("[target]", "[target"), "recipe .*mine.toml is no valid TOML"),
        (('title = "t"', 'extends = "none"'), "extends: there is no recipe 'none'"),
        (('title = "t"', "data = 1\ntitle = 'x'"), "no valid TOML"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(_recipe(tmp_path, GOOD.replace(*change)))


def test_unknown_settings_of_the_attack_are_refused(tmp_path):
    recipe = load_recipe(_recipe(tmp_path, GOOD + "[attack.settings]\nstep = 1\n"))
    with pytest.raises(
        ValueError, match=r"attack.settings: unknown key 'step'; did you mean 'steps'"
    ):
        attack_settings(recipe)
    recipe = load_recipe(_recipe(tmp_path, GOOD.replace('"gmi"', '"later"')))
    with pytest.raises(ValueError, match="needs the attack 'later', this release has gmi"):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("gmi", 'adaptive = ["oracle"]', "adaptive must be of surrogate, surrogate.target, each"),
        ("gmi", 'adaptive = ["surrogate", "surrogate"]', "each once"),
        ("brep", 'adaptive = ["surrogate"]', "adaptive is for white-box attacks, brep is label"),
        ("gmi", "surrogate = {steps = 1}", "surrogate is for adaptive, which is empty"),
        ("gmi", 'adaptive = ["surrogate"]\nsurrogate = {step = 1}', "unknown key 'step'"),
        ("gmi", 'adaptive = ["surrogate"]\nsurrogate = {steps = 0}', "steps must be at least 1"),
    ],
)
def test_adaptive_attackers_of_a_recipe_are_checked(tmp_path, name, lines, message):
    text = GOOD.replace('name = "gmi"', f'name = "{name}"\n{lines}')
    with pytest.raises(ValueError, match=message):
        attack_settings(load_recipe(_recipe(tmp_path, text)))


def test_adaptive_attackers_share_one_surrogate(tmp_path):
    lines = 'adaptive = ["surrogate", "surrogate+target"]\nsurrogate = {steps = 7}'
    text = GOOD.replace('name = "gmi"', f'name = "gmi"\n{lines}')
    recipe = load_recipe(_recipe(tmp_path, text), seed=3)
    made = attack_settings(recipe).adaptive
    assert [config.kind for config in made.values()] == list(made)
    assert {(config.steps, config.seed) for config in made.values()} == {(7, 3)}
    assert attack_settings(recipe, smoke=True).adaptive["surrogate"].steps == 3


def test_settings_of_a_generator_file_go_with_it():
    recipe = load_recipe("facescrub224-ppa")
    assert attack_settings(recipe).search.centre == 800
    assert attack_settings(recipe, from_scratch=True).search.centre == 0
    recipe = load_recipe("celeba64-resnet34-none-vmi")
    assert attack_settings(recipe).search.layered
    assert not attack_settings(recipe, from_scratch=True).search.layered


def test_data_and_weights_must_be_there(tmp_path):
    recipe = load_recipe("ffhq")
    with pytest.raises(ValueError, match="recipe starts from vgg16_bn-6c64b313.pth, and there is"):
        run_recipe(recipe, tmp_path / "run", tmp_path)
    with pytest.raises(ValueError, match=r"must hold a folder .celeba. for each data set"):
        run_recipe(recipe, tmp_path / "run", tmp_path, from_scratch=True)


def test_a_missing_public_set_is_told_before_anything_is_trained(tmp_path):
    write_small("celeba", tmp_path / "celeba", classes=2, images=4)
    run = ("run", "ffhq", "--from-scratch", "--data", tmp_path, "--out", tmp_path / "run")
    result = bido(*run)
    assert result.exit_code == 2
    assert "must hold a folder 'ffhq' for each data set" in result.stderr
    assert not (tmp_path / "run").exists()
    own = load_recipe(_recipe(tmp_path, GOOD.replace("synthetic", "folders")))
    folders = write_small("folders", tmp_path / "folders", classes=2, images=4)
    with pytest.raises(ValueError, match="attacks with public images and 'folders' has none"):
        run_recipe(own, tmp_path / "run", folders)


def test_commands(tmp_path):
    rows = json.loads(bido("list", "recipes", "--json").stdout)
    assert {row["name"] for row in rows} == set(recipe_names())
    text = bido("list", "recipes").stdout
    assert "celeba64-vgg16-bido-hsic " in text
    models = bido("list", "models").stdout
    assert "torchvision/NAME" in models
    assert bido("run", "no-such-recipe").exit_code == 2
    assert "takes no --data" in bido("run", "ffhq", "--smoke", "--data", tmp_path).stderr
    result = bido("run", "cifar10-vgg16-none", "--smoke", "--out", tmp_path / "r", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["smoke"]
    assert Path(tmp_path / "r" / "results.json").is_file()
    assert "the numbers mean nothing" in bido("run", "cifar10-vgg16-none", "--smoke").stdout

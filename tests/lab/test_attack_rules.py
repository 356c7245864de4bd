# SPDX-License-Identifier: Apache-2.0
"""Rules that every attack keeps: who may know what, seeds, restarts, named failures, resumption."""

from __future__ import annotations

import ast
import copy
import functools
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from preloaded import run_python
from torch import nn

from bido_ext.lab import attacks
from bido_ext.lab.attacks import ATTACKS, AttackSpec, BlackBox
from bido_ext.lab.attacks.rows import Rows, stream_seed
from bido_ext.lab.data import ImageSet
from bido_ext.lab.experiments import attacking
from bido_ext.lab.models import build_model
from bido_ext.lab.models.checkpoint import load_checkpoint, weights_digest


def example() -> AttackSpec:
    """The attack that CONTRIBUTING shows: it keeps the same rules."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = text.split("## Add an attack", 1)[1].split("```python\n", 1)[1].split("```", 1)[0]
    made = types.ModuleType("contributed")
    sys.modules["contributed"] = made  # where dataclasses look names up
    exec(compile(code, "CONTRIBUTING.md", "exec"), made.__dict__)
    (spec,) = (value for value in vars(made).values() if isinstance(value, AttackSpec))
    return spec


CASES = {**ATTACKS, (EXAMPLE := example()).name: EXAMPLE}


def short(spec: AttackSpec, **changes):
    """Three steps of several batches."""
    config = spec.settings("smoke")
    restarts = {"restarts": 2} if hasattr(config, "restarts") else {}
    return replace(config, **{"steps": 3, "batch_size": 4, **restarts, **changes})


def images_of(config) -> int:
    """How many each class has."""
    return getattr(config, "selected", None) or config.restarts * getattr(config, "samples", 1)


def public() -> ImageSet:
    return ImageSet(torch.rand(40, 1, 32, 32, generator=torch.Generator().manual_seed(0)), None)


def met(spec: AttackSpec, target: nn.Module):
    """The target as the attack meets it."""
    if spec.access == "white box":
        return target
    return BlackBox(target, labels_only=spec.access == "label only")


def prior_of(spec: AttackSpec, target: nn.Module, folder: Path):
    """A generator as it comes from one step of training."""
    config = spec.prior.settings("smoke")
    small = {"steps": 1, "width": 0.05, "critic_width": 0.05}
    config = replace(config, **{name: v for name, v in small.items() if hasattr(config, name)})
    of = [met(spec, target)] if spec.prior.of_target else []
    made = spec.prior.train(config, *of, public(), folder, progress=False)
    return made.generator if spec.any_generator else made


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Target and prior of each attack, made once."""

    @functools.cache
    def of(name):
        target = build_model("mcnn", 5).eval()
        return target, prior_of(CASES[name], target, tmp_path_factory.mktemp("prior"))

    return of


@pytest.fixture(params=list(CASES))
def case(request, trained):
    """(attack, its target, its prior), copies for the test alone."""
    target, prior = copy.deepcopy(trained(request.param))
    return CASES[request.param], target, prior


def run(case, classes=range(5), **options):
    spec, target, prior = case
    config = options.pop("config", short(spec))
    if spec.sees_public:
        options["public"] = public()
    return spec.run(config, met(spec, target), prior, classes, progress=False, **options)


def test_every_restart_is_kept(case):
    found = run(case, [3, 0, 1])
    assert found.images.shape == (images_of(short(case[0])), 3, 1, 32, 32)
    assert found.classes == [3, 0, 1]
    assert found.images.min() >= 0
    assert found.images.max() <= 1


def test_the_access_is_enforced(case):
    """A black-box attack is given no network, a white-box attack no box."""
    spec, target, prior = case
    wrong = BlackBox(target, labels_only=True) if spec.access == "white box" else target
    more = {"public": public()} if spec.sees_public else {}
    with pytest.raises(TypeError, match="target must be"):
        spec.run(short(spec), wrong, prior, range(5), progress=False, **more)


def test_the_seed_decides(case):
    config = short(case[0])
    torch.manual_seed(1)
    first = run(case)
    torch.manual_seed(2)  # the global generator has no say
    same, other = run(case), run(case, config=replace(config, seed=1))
    assert torch.equal(first.latents, same.latents)
    assert not torch.equal(first.latents, other.latents)


def test_the_target_stays_as_it_is(case):
    target = case[1]
    before = weights_digest(target)
    target.train()
    run(case)
    assert weights_digest(target) == before
    assert not target.training
    assert all(value.grad is None for value in target.parameters())


def test_nan_names_attack_identity_restart_and_iteration(case):
    spec, target, prior = case

    class Breaks(nn.Module):
        """The target, until its sixth call; then NaN for its last image."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = target, 0

        def forward(self, x):
            self.calls += 1
            logits = self.inner(x)
            asked = spec.access != "white box"  # its queries have no gradients
            if (torch.is_grad_enabled() or asked) and self.calls > 5:
                logits = torch.cat([logits[:-1], logits[-1:] * float("nan")])
            return logits

    broken = Breaks()
    if spec.prior.of_target:
        prior.target = weights_digest(broken)
    # An attack that searches on surrogates asks before it searches.
    where = r": identity \d(, restart \d: .* at iteration \d|: the target's answer to image \d)"
    with pytest.raises(FloatingPointError, match=where):
        run((spec, broken, prior), config=short(spec, steps=9))


def test_a_checkpoint_of_another_run_is_refused(case, tmp_path):
    run(case, run_dir=tmp_path)
    config = short(case[0])
    with pytest.raises(ValueError, match="was made with steps=3, now steps=4"):
        run(case, run_dir=tmp_path, config=replace(config, steps=4))
    with pytest.raises(ValueError, match="was made with classes="):
        run(case, [0], run_dir=tmp_path)
    torch.manual_seed(1)
    other = build_model("mcnn", 5).eval()
    spec, _, prior = case
    if spec.prior.of_target:
        prior.target = weights_digest(other)
    with pytest.raises(ValueError, match="was made with target="):
        run((spec, other, prior), run_dir=tmp_path)


KILLED = """
import os, sys
folder, tests, threads, *names = sys.argv[1:]
sys.path[:0] = [tests]
sys.modules["bido_ext.lab.judging"] = None  # cannot be imported: the attacks must not need it
import torch
import test_attack_rules as rules
from bido_ext.lab.attacks import search

save, saved = search._save, []

def die_after_the_third(*arguments):
    save(*arguments)
    saved.append(1)
    if len(saved) == 3:
        os._exit(9)  # as a kill: nothing is cleaned up

search._save = die_after_the_third
statuses = []
for name in names:
    if (child := os.fork()) == 0:
        torch.set_num_threads(int(threads))
        torch.use_deterministic_algorithms(True, warn_only=True)  # as the tests' conftest.py
        rules.attack_in_two_batches(name, f"{folder}/{name}")
        os._exit(1)
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(*statuses)
"""


def attack_in_two_batches(name: str, folder: Path):
    """An attack with a checkpoint within each of its batches."""
    torch.manual_seed(0)
    target, spec = build_model("mcnn", 5).eval(), CASES[name]
    prior = prior_of(spec, target, Path(folder) / "prior")
    return run(
        (spec, target, prior), config=short(spec, steps=4, checkpoint_every=2), run_dir=folder
    )


#: These search with the steps of another attack, so what a checkpoint of theirs holds is seen there too.
BORROWED = ("lomma-ked", "ppdg")


@pytest.mark.parametrize(
    "names",
    [
        pytest.param([name for name in CASES if name not in BORROWED], id="steps of its own"),
        pytest.param(BORROWED, id="steps of another", marks=pytest.mark.slow),
    ],
)
def test_a_killed_process_resumes_to_the_same_bits(tmp_path, names):
    arguments = (tmp_path, Path(__file__).parent, torch.get_num_threads(), *names)
    child = run_python(KILLED, *map(str, arguments))
    assert child.stdout.split() == ["9"] * len(names), child.stderr
    for name in names:
        whole = attack_in_two_batches(name, tmp_path / f"whole {name}")
        checkpoint = load_checkpoint(tmp_path / name / "latents.pt")
        assert (len(checkpoint["done"]), checkpoint["step"]) == (1, 2), "within the second batch"
        resumed = attack_in_two_batches(name, tmp_path / name)
        assert torch.equal(resumed.latents, whole.latents)
        assert torch.equal(resumed.images, whole.images)
        assert torch.equal(resumed.target_confidence, whole.target_confidence)


def test_random_numbers_belong_to_their_row():
    rows = Rows.of([3, 1], 2, 5, 7)
    noise = rows.noise("x", 1, 4)
    assert torch.equal(noise[3], Rows.of([1], 2, 5, 7).noise("x", 1, 4)[1])
    assert torch.equal(rows.starts(6)[1], Rows.of([0, 1], 1, 5, 7).starts(6)[1])
    starts = [Rows.of([0, 1], 3, 5, seed).starts(6) for seed in (0, 1, 2)]
    assert len(torch.unique(torch.cat(starts), dim=0)) == 18, "seeds share a restart's start"
    assert torch.equal(rows.cut(1, 3).noise("x", 1, 4), noise[1:3])
    others = (rows.noise("x", 2, 4), rows.noise("y", 1, 4))
    assert not any(torch.equal(noise, other) for other in others)
    assert len(torch.unique(noise)) == noise.numel()
    assert stream_seed(1, "a") != stream_seed(1, "b")


def modules() -> list[Path]:
    return [*Path(attacks.__file__).parent.rglob("*.py"), Path(attacking.__file__)]


def test_no_attack_can_reach_the_evaluation_classifier():
    """No import of the judge, no parameter by which an evaluator could be passed in."""
    for path in modules():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [alias.name for alias in node.names]
                source = getattr(node, "module", "") or ""
                assert not any("judge" in name for name in [source, *names]), path
            if isinstance(node, ast.arg):
                assert not any(word in node.arg for word in ("evaluat", "judge")), (path, node.arg)


def test_pipeline_and_commands_name_no_attack():
    """A new attack is a file and a line of the registry: nothing else knows one by its name."""
    package = Path(attacks.__file__).parents[2]
    own = {path.stem for path in Path(attacks.__file__).parent.iterdir()} & {
        type(spec.config()).__module__.removeprefix("bido_ext.lab.attacks.").partition(".")[0]
        for spec in ATTACKS.values()
    }
    assert {"gmi", "ked", "plg"} <= own
    for path in [*(package / "lab/experiments").rglob("*.py"), *(package / "cli").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant):
                assert node.value not in ATTACKS, (path, node.lineno)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "bido_ext.lab.attacks."
            ):
                assert (node.module or "").split(".")[3] not in own, (path, node.lineno)

# SPDX-License-Identifier: Apache-2.0
"""Rules that every attack keeps: who may know what, seeds, restarts, named failures, resumption."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bido_ext.lab import attacks
from bido_ext.lab.attacks import (
    ATTACKS,
    BlackBox,
    BrepConfig,
    Critic,
    Gan,
    Generator,
    GmiConfig,
    KedConfig,
    KedGan,
    PpaConfig,
    VmiConfig,
)
from bido_ext.lab.attacks.ked import TargetDiscriminator
from bido_ext.lab.attacks.rows import Rows, stream_seed
from bido_ext.lab.experiments import attacking
from bido_ext.lab.models import build_model
from bido_ext.lab.models.checkpoint import load_checkpoint, weights_digest

SHORT = {
    "gmi": GmiConfig(steps=3, restarts=2, batch_size=4),
    "ked": KedConfig(steps=3, restarts=2, samples=2, batch_size=4),
    "vmi": VmiConfig(steps=3, restarts=2, samples=2, draws=3, couplings=1, hidden=4),
    "ppa": PpaConfig(candidates=8, kept=4, selected=2, steps=3, transforms=2, batch_size=4),
    "brep": BrepConfig(steps=3, restarts=2, candidates=16, points=4, batch_size=4),
}
IMAGES = {"gmi": 2, "ked": 4, "vmi": 4, "ppa": 2, "brep": 2}  # of each class


def prior_of(name: str, target: nn.Module):
    generator = Generator(0.05).eval()
    if name == "gmi":
        return Gan(generator, Critic(0.05).eval(), [], 0.0, Path())
    if name == "ked":
        discriminator = TargetDiscriminator(5, 0.05).eval()
        return KedGan(generator, discriminator, weights_digest(target), [], 0.0, Path())
    return generator


@pytest.fixture(params=list(ATTACKS))
def case(request):
    """(attack, its target, its prior)."""
    target = build_model("mcnn", 5).eval()
    return request.param, target, prior_of(request.param, target)


def run(case, classes=range(5), **options):
    name, target, prior = case
    config = options.pop("config", SHORT[name])
    if ATTACKS[name].access == "label only":
        target = BlackBox(target, labels_only=True)
    return ATTACKS[name].run(config, target, prior, classes, progress=False, **options)


def test_every_restart_is_kept(case):
    found = run(case, [3, 0, 1])
    assert found.images.shape == (IMAGES[case[0]], 3, 1, 32, 32)
    assert found.classes == [3, 0, 1]
    assert found.images.min() >= 0
    assert found.images.max() <= 1


def test_the_seed_decides(case):
    config = SHORT[case[0]]
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
    name, target, prior = case

    class Breaks(nn.Module):
        """The target, until its sixth call; then NaN for its last image."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = target, 0

        def forward(self, x):
            self.calls += 1
            logits = self.inner(x)
            asked = ATTACKS[name].access != "white box"  # its queries have no gradients
            if (torch.is_grad_enabled() or asked) and self.calls > 5:
                logits = torch.cat([logits[:-1], logits[-1:] * float("nan")])
            return logits

    broken = Breaks()
    if name == "ked":
        prior.target = weights_digest(broken)
    with pytest.raises(FloatingPointError, match=r": identity \d, restart \d: .* at iteration \d"):
        run((name, broken, prior), config=replace(SHORT[name], steps=9))


def test_a_checkpoint_of_another_run_is_refused(case, tmp_path):
    run(case, run_dir=tmp_path)
    config = SHORT[case[0]]
    with pytest.raises(ValueError, match="was made with steps=3, now steps=4"):
        run(case, run_dir=tmp_path, config=replace(config, steps=4))
    with pytest.raises(ValueError, match="was made with classes="):
        run(case, [0], run_dir=tmp_path)
    other = build_model("mcnn", 5).eval()
    name, _, prior = case
    if name == "ked":
        prior.target = weights_digest(other)
    with pytest.raises(ValueError, match="was made with target="):
        run((name, other, prior), run_dir=tmp_path)


KILLED = """
import os, sys
folder, tests, threads = sys.argv[1:]
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
for name in rules.ATTACKS:
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
    target = build_model("mcnn", 5).eval()
    config = replace(SHORT[name], steps=4, checkpoint_every=2)
    return run((name, target, prior_of(name, target)), config=config, run_dir=folder)


def test_a_killed_process_resumes_to_the_same_bits(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)]
    child = subprocess.run(
        [*command, str(torch.get_num_threads())], capture_output=True, text=True, check=False
    )
    assert child.stdout.split() == ["9"] * len(ATTACKS), child.stderr
    for name in ATTACKS:
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

# SPDX-License-Identifier: Apache-2.0
"""LOMMA: the written loss, features of the target, students that learn and resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bido_ext.lab.attacks import Critic, Gan, Generator, surrogates
from bido_ext.lab.attacks.lomma import LOMMA, invert_lomma, students, train_students
from bido_ext.lab.attacks.lomma.loss import LogitLoss, WithFeatures
from bido_ext.lab.attacks.surrogates import Student
from bido_ext.lab.data import ImageSet
from bido_ext.lab.models import build_model
from bido_ext.lab.models.checkpoint import weights_digest

CPU = torch.device("cpu")
SETTINGS = replace(LOMMA.settings("smoke"), students="small-1,small-2")


@pytest.fixture(scope="module")
def target():
    torch.manual_seed(0)
    return build_model("mcnn", 5).eval()


@pytest.fixture(scope="module")
def public():
    return ImageSet(torch.rand(30, 1, 32, 32, generator=torch.Generator().manual_seed(1)), None)


def trained(target, public, run_dir=None, **changes):
    return train_students(
        replace(SETTINGS, **changes), target, public, 5, seed=0, digest=weights_digest(target),
        run_dir=run_dir, resume=True, progress=False, every=2, device=CPU,
    )  # fmt: skip


def test_the_written_loss(target, public):
    images, labels = public.batch(torch.arange(4)), torch.tensor([0, 3, 3, 1])
    other = Student(1, 5, (1, 32, 32), 0.1).eval()
    mean = torch.rand(256)
    with torch.no_grad():
        logits = [target(images), other(images)]
        wanted = sum(each[range(4), labels] for each in logits) / 2
        away = (target.features(images) - mean).square().mean(1)
        found = LogitLoss(WithFeatures(target, (1, 32, 32), CPU), [other], 0.4, mean)(
            images, labels
        )
    torch.testing.assert_close(found, 0.4 * away - wanted)


def test_features_are_what_the_last_linear_layer_is_given(target, public):
    images = public.batch(torch.arange(3)).requires_grad_()
    seen = WithFeatures(target, (1, 32, 32), CPU)
    logits, features = seen(images)
    torch.testing.assert_close(features, target.features(images))
    torch.testing.assert_close(logits, target(images))
    assert torch.autograd.grad(features.sum(), images)[0].abs().sum() > 0
    assert not target.head._forward_pre_hooks
    whole = seen.mean(public, 1000, 0, CPU)
    torch.testing.assert_close(whole, target.features(public.tensors[0]).mean(0).detach())
    assert not torch.equal(seen.mean(public, 7, 0, CPU), whole)


def test_a_target_without_features_is_refused(public):
    convolutional = nn.Sequential(nn.Conv2d(1, 5, 32), nn.Flatten())
    prior = Gan(Generator(0.05).eval(), Critic(0.05).eval(), [], 0.0, Path())
    with pytest.raises(ValueError, match="target must end in a linear layer"):
        invert_lomma(SETTINGS, convolutional, prior, [0], public=public, progress=False)
    free = replace(SETTINGS, lam=0.0)
    found = invert_lomma(free, convolutional, prior, [0], public=public, progress=False)
    assert found.images.shape == (3, 1, 1, 32, 32)
    with pytest.raises(ValueError, match="public must be images of the GAN's shape"):
        invert_lomma(SETTINGS, convolutional, prior, [0], public=torch.rand(9, 3, 8, 8))


def test_students_come_to_answer_as_the_target(public):
    torch.manual_seed(3)
    teacher = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(4, 5))
    with torch.no_grad():
        teacher[2].weight.mul_(40)
    images = public.tensors[0]

    def away(steps):
        made = trained(
            teacher, public, student_steps=steps, student_lr=0.05, student_batch=30, augment="none"
        )
        with torch.no_grad():
            told = [student(images).log_softmax(1) for student in made]
            opinion = teacher(images).softmax(1)
        return [float(F.kl_div(each, opinion, reduction="batchmean")) for each in told]

    for before, after in zip(away(1), away(60), strict=True):
        assert after < 0.7 * before


def test_a_killed_distillation_resumes_to_the_same_bits(target, public, tmp_path, monkeypatch):
    whole = trained(target, public, tmp_path / "whole", student_steps=5)
    descend = surrogates._descend

    def killed(*arguments):
        if arguments[-1] == 4:
            raise KeyboardInterrupt
        descend(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(surrogates, "_descend", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(target, public, tmp_path / "killed", student_steps=5)
    torch.manual_seed(77)  # the global generator has no say
    resumed = trained(target, public, tmp_path / "killed", student_steps=5)
    assert [weights_digest(each) for each in resumed] == [weights_digest(each) for each in whole]
    with pytest.raises(ValueError, match="was made with student_lr=0.01, now student_lr=0.1"):
        trained(target, public, tmp_path / "killed", student_steps=5, student_lr=0.1)


def test_which_students(target, public):
    shapes = {(1, 32, 32): surrogates.SMALL, (3, 64, 64): students.PUBLISHED}
    for shape, names in shapes.items():
        assert students.student_names("auto", shape) == names
    assert trained(target, public, students="none") == []
    assert type(trained(target, public, students="mcnn")[0]) is type(target)
    with pytest.raises(ValueError, match=r"students: lenet3 takes \(1, 28, 28\)"):
        trained(target, public, students="lenet3")
    with pytest.raises(ValueError, match="arch must be one of"):
        trained(target, public, students="small-x")


def test_the_attack_raises_the_wanted_logit(target, public):
    strong = build_model("mcnn", 5).eval()
    strong.load_state_dict(target.state_dict())
    torch.manual_seed(0)
    generator = Generator(0.1).eval()
    with torch.no_grad():  # untrained networks hardly react to their input: make them
        strong.head.weight.mul_(20)
        for weights in generator.parameters():
            weights.mul_(3)
    prior = Gan(generator, Critic(0.1).eval(), [], 0.0, Path())
    config = replace(SETTINGS, lr=1e-2, students="none")
    start, end = (
        invert_lomma(
            replace(config, steps=steps), strong, prior, range(5), public=public, progress=False
        )
        for steps in (1, 20)
    )
    wanted = [
        strong(found.images.flatten(0, 1)).view(3, 5, 5).diagonal(dim1=1, dim2=2).mean()
        for found in (start, end)
    ]
    assert wanted[1] > wanted[0] + 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lam": -1.0}, "lam must be at least 0"),
        ({"student_momentum": 1.0}, "student_momentum must be below 1, got 1.0"),
        ({"student_batch": 1}, "student_batch must be at least 2"),
        ({"augment": "cutout"}, "augment must be one of"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **change)

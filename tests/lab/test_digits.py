# SPDX-License-Identifier: Apache-2.0
"""The private/public split of the digits, and the augmentation of the public ones."""

import pytest
import torch

from bido_ext.lab.data.augment import AUGMENTATIONS, AffineRange, augmentation, random_affine
from bido_ext.lab.data.digits import split_digits
from bido_ext.lab.data.synthetic import synthetic_digits


@pytest.fixture(scope="module")
def task():
    return split_digits(synthetic_digits(200, 100))


def test_sizes_and_dtypes(task):
    sizes = {name: len(getattr(task, name)) for name in ("train", "val", "test", "public")}
    assert sizes == {"train": 90, "val": 10, "test": 50, "public": 150}
    assert (len(task.judge_train), len(task.judge_test)) == (200, 100)
    for name in ("train", "val", "test", "judge_train", "judge_test"):
        images, labels = getattr(task, name).tensors
        assert images.shape[1:] == (1, 32, 32)
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert images.min() >= 0
        assert images.max() <= 1


def test_private_classes_are_0_to_4(task):
    for name in ("train", "val", "test"):
        assert set(getattr(task, name).tensors[1].tolist()) <= {0, 1, 2, 3, 4}
    assert task.num_classes == 5
    assert set(task.judge_train.tensors[1].tolist()) == set(range(10))


def test_no_private_image_is_public(task):
    assert len(task.public.tensors) == 1
    public = {image.numpy().tobytes() for image in task.public.tensors[0]}
    for name in ("train", "val", "test"):
        private = {image.numpy().tobytes() for image in getattr(task, name).tensors[0]}
        assert not private & public


def test_train_and_val_are_disjoint_and_follow_the_seed(task):
    train, val = ({x.numpy().tobytes() for x in s.tensors[0]} for s in (task.train, task.val))
    assert not train & val
    again, other = (split_digits(synthetic_digits(200, 100), seed=seed) for seed in (0, 1))
    assert torch.equal(again.val.tensors[0], task.val.tensors[0])
    assert not torch.equal(other.val.tensors[0], task.val.tensors[0])


@pytest.mark.parametrize("other", [{"image_size": 28}, {"val_fraction": 0.2}, {"seed": 1}])
def test_digest_tells_another_split(task, other):
    assert split_digits(synthetic_digits(200, 100)).digest == task.digest
    changed = split_digits(synthetic_digits(200, 100), **other)
    assert changed.digest != task.digest
    assert changed.digits_sha256 == task.digits_sha256 == synthetic_digits(200, 100).sha256()


def test_image_size_28_keeps_the_pixels():
    digits = synthetic_digits(20, 10)
    images = split_digits(digits, image_size=28).judge_train.tensors[0]
    assert torch.equal((images[:, 0] * 255).round().byte(), torch.from_numpy(digits.train_images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 4}, "image_size must be at least 8 pixels, got 4"),
        ({"val_fraction": 0.0}, "val_fraction must lie between 0 and 1, got 0.0"),
        ({"val_fraction": 1.0}, "val_fraction must lie between 0 and 1, got 1.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        split_digits(synthetic_digits(20, 10), **arguments)


def test_affine_without_range_changes_nothing():
    images = torch.rand(4, 1, 32, 32)
    out = random_affine(images, AffineRange(), torch.Generator().manual_seed(0))
    torch.testing.assert_close(out, images, atol=1e-4, rtol=0)


def test_quarter_turns_are_exact_turns():
    image = torch.rand(1, 1, 32, 32)
    images = image.expand(32, -1, -1, -1)
    turned = random_affine(
        images, AffineRange(quarter_turns=True), torch.Generator().manual_seed(0)
    )
    turns = [torch.rot90(image[0], k, (1, 2)) for k in range(4)]
    seen = set()
    for out in turned:
        errors = [float((out - turn).abs().max()) for turn in turns]
        seen.add(errors.index(min(errors)))
        assert min(errors) < 1e-3
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "none"])
def test_augmentations_stay_images_and_follow_the_generator(name):
    images = split_digits(synthetic_digits(50, 10)).public.tensors[0]
    first, second = (
        random_affine(images, augmentation(name), torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert torch.equal(first, second)
    assert first.min() >= 0
    assert first.max() <= 1
    assert not torch.equal(first, images)


def test_unknown_augmentation():
    with pytest.raises(ValueError, match="augment must be one of none, .* got 'blur'"):
        augmentation("blur")

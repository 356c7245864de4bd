# SPDX-License-Identifier: Apache-2.0
"""The data sets by name, and the task of an experiment from one or two of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .celeba import celeba
from .cifar10 import cifar10
from .decode import Preparation
from .digits import DigitTask, split_digits
from .listing import Listing
from .mnist import load_mnist
from .names import shown
from .person_folders import facescrub, folders, lfw
from .public_folder import public_folder
from .task import ImageTask, task_of


@dataclass(frozen=True)
class DatasetSpec:
    """One data set.

    Attributes:
        name: as on the command line.
        description: one line.
        private, public: which parts it has.
        image_size: side of its images unless the classifier wants another.
        arch, judge: target and evaluation classifier that are trained on it unless told otherwise.
        crop: side of the square cut from the middle of each file; 0: the largest there is.
        listing: reads which files there are, (root, seed); None: not a folder of image files.
        needs_root: whether a folder must be given.
        arch_options: options of both for these images.
        own_public: whether its public part shows others than its private part. If not, it can be
            public for another private set alone.
        published: numbers of images (and of classes) in the published splits.
        classes: private classes and those of the evaluation classifier, where every copy of the
            data set has the same; else 0.
        channels: 3 for colour, 1 for grey.
    """

    name: str
    description: str
    private: bool
    public: bool
    image_size: int
    arch: str
    judge: str = "facenet64"
    crop: int = 0
    listing: Callable[[Path, int], Listing] | None = None
    needs_root: bool = True
    arch_options: Mapping[str, Any] = field(default_factory=dict)
    own_public: bool = True
    published: Mapping[str, int] = field(default_factory=dict)
    classes: tuple[int, int] = (0, 0)
    channels: int = 3


class DataNote(UserWarning):
    """Something of a data set is left out; what and why."""


DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            "mnist",
            "digits 0-4 private, 5-9 public; a torchvision folder, or fetched once and cached",
            True, True, 32, "mcnn", "scnn", needs_root=False, classes=(5, 10), channels=1,
        ),
        DatasetSpec(
            "synthetic",
            "seven-segment digits drawn on the spot, for smoke runs",
            True, True, 32, "mcnn", "scnn", needs_root=False, classes=(5, 10), channels=1,
        ),
        DatasetSpec(
            "cifar10",
            "classes 0-4 private, 5-9 public; a torchvision folder (cifar-10-batches-py)",
            True, True, 32, "vgg16", arch_options={"image_size": 32}, classes=(5, 10),
        ),
        DatasetSpec(
            "celeba",
            "1000 people private, others public; trainset.txt, testset.txt and ganset.txt, or "
            "identity_CelebA.txt, beside img_align_celeba; middle 108 of 178 x 218 pixels",
            True, True, 64, "vgg16", crop=108, listing=celeba,
            published={"train": 27_018, "test": 3_009, "public": 30_000, "classes": 1000},
        ),
        DatasetSpec(
            "facescrub",
            "530 people, one folder for each; also as the public images of another set",
            True, True, 64, "vgg16", listing=facescrub, own_public=False,
        ),
        DatasetSpec(
            "lfw",
            "people with 20 images or more private (60 each at most), the others public; "
            "lfwcrop64, or one folder for each person",
            True, True, 64, "vgg16", listing=lfw,
            published={"train": 1_726, "test": 429, "public": 10_210, "classes": 62},
        ),
        DatasetSpec(
            "folders",
            "your own: one folder for each class; also as the public images of another set",
            True, True, 64, "vgg16", listing=folders, own_public=False,
        ),
        DatasetSpec(
            "ffhq",
            "FFHQ thumbnails (128 x 128, the middle 88) or any folder of images: public only",
            False, True, 64, "vgg16", crop=88, listing=public_folder,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class DataConfig:
    """Which images an experiment is about.

    Attributes:
        private: key of ``DATASETS`` with a private part.
        root: its folder; may be None where the data can be fetched or drawn.
        public, public_root: where the attacker's images come from; None: from the private data
            set's own public part.
        image_size: side of the images; None: the data set's.
        crop, public_crop: override ``DatasetSpec.crop``; of one data set ``crop`` is for both parts.
        val_fraction: share of each class's training images that selects the model.
        seed: of the splits.
        cache: folder for decoded images; None: that of the user.
        private_only: leave the public images of a data set of files out, where nobody attacks.
    """

    private: str = "mnist"
    root: Path | None = None
    public: str | None = None
    public_root: Path | None = None
    image_size: int | None = None
    crop: int | None = None
    public_crop: int | None = None
    val_fraction: float = 0.1
    seed: int = 0
    cache: Path | None = None
    private_only: bool = False

    def __post_init__(self) -> None:
        spec = find_dataset(self.private)
        if not spec.private:
            raise ValueError(f"data set {self.private!r} has no private part")
        if self.public is not None and not find_dataset(self.public).public:
            raise ValueError(f"data set {self.public!r} has no public part")
        mixed = self.public not in (None, self.private)
        if mixed and (spec.listing is None or find_dataset(self.public).listing is None):
            raise ValueError(
                f"{self.private!r} takes no other public data set, got {self.public!r}"
            )
        # What would have no influence is refused, not ignored.
        if spec.name == "synthetic" and self.root is not None:
            raise ValueError(
                f"--data is of no use to 'synthetic', which is drawn on the spot, got "
                f"{shown(self.root)}; name its data set with --dataset"
            )
        for option, given in (("--public-data", self.public_root), ("--crop", self.crop)):
            if spec.listing is None and given:  # a crop of 0 is none
                raise ValueError(
                    f"{option} is of no use to {self.private!r}, which is no folder of image "
                    f"files, got {given}"
                )


def find_dataset(name: str | None) -> DatasetSpec:
    """Look up a data set.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in DATASETS:
        raise ValueError(f"data set must be one of {', '.join(DATASETS)}, got {name!r}")
    return DATASETS[name]


def load_task(config: DataConfig, *, progress: bool = False) -> ImageTask | DigitTask:
    """The sets of the experiment; image files are decoded once and cached.

    Raises:
        ValueError: A folder is missing, or holds something else or damaged files.
    """
    spec = find_dataset(config.private)
    size = config.image_size or spec.image_size
    if spec.name == "mnist":
        return split_digits(load_mnist(config.root), size, config.val_fraction, config.seed)
    if spec.name == "synthetic":
        from bido_ext.lab.data.synthetic import synthetic_digits

        return split_digits(synthetic_digits(), size, config.val_fraction, config.seed)
    if config.root is None:
        raise ValueError(f"--data must name the folder of the data set {spec.name!r}")
    if spec.name == "cifar10":
        return cifar10(config.root, size, val_fraction=config.val_fraction, seed=config.seed)
    private, public = listings(config)
    for sentence in dict.fromkeys((*private.skipped, *public.skipped)):
        warnings.warn(sentence, DataNote, stacklevel=2)
    public_spec = find_dataset(config.public or config.private)
    same = public_spec is spec
    crop = spec.crop if config.crop is None else config.crop
    public_crop = config.public_crop
    if public_crop is None:  # images of one data set are cut alike
        public_crop = crop if same else public_spec.crop
    return task_of(
        private,
        public,
        Preparation(size, crop),
        Preparation(size, public_crop),
        val_fraction=config.val_fraction,
        seed=config.seed,
        cache=config.cache,
        progress=progress,
    )


def class_counts(config: DataConfig) -> tuple[int, int]:
    """Private classes and those of the evaluation classifier; no image is opened for it.

    Raises:
        ValueError: The folder is missing or holds something else.
    """
    spec = find_dataset(config.private)
    if spec.listing is None:
        return spec.classes
    if config.root is None:
        raise ValueError(f"--data must name the folder of the data set {spec.name!r}")
    known = len(spec.listing(config.root, config.seed).class_names)
    return known, known


def check_channels(config: DataConfig, shape: Sequence[int], who: object) -> None:
    """Refuse images of another number of channels than ``who`` takes or holds, before loading them.

    Args:
        config: The data sets.
        shape: (channels, height, width) of ``who``.
        who: What to call it.

    Raises:
        ValueError: The numbers differ.
    """
    channels = find_dataset(config.private).channels
    if shape[0] != channels:
        raise ValueError(
            f"images of {config.private!r} have {channels} channels, {who} has {shape[0]}; another "
            "data set is named by --dataset"
        )


def listings(config: DataConfig) -> tuple[Listing, Listing]:
    """The files of the private and of the public data set.

    Without another public set it is the private set's own public part, or none.

    Raises:
        ValueError: These are no data sets of files, or a folder is missing or holds something else.
    """
    spec = find_dataset(config.private)
    if spec.listing is None:
        raise ValueError(f"data set {spec.name!r} is no folder of image files")
    if config.root is None:
        raise ValueError(
            f"data set {spec.name!r} needs its folder: give root, or FOLDER to bido data"
        )
    private = spec.listing(config.root, config.seed)
    if config.private_only:
        return private, Listing()
    if config.public in (None, config.private) and config.public_root is None:
        # Without a public part of its own nothing is public, rather than the private images.
        return private, private if spec.own_public else Listing()
    public_spec = find_dataset(config.public or config.private)
    if config.public_root is None:
        raise ValueError(f"--public-data must name the folder of the data set {public_spec.name!r}")
    assert public_spec.listing is not None  # DataConfig checks it
    return private, public_spec.listing(config.public_root, config.seed)

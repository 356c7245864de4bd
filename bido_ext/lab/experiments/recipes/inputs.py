# SPDX-License-Identifier: Apache-2.0
"""What a recipe needs from disk: folders of data sets, files of pretrained weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bido_ext.lab.data import DataConfig, find_dataset
from bido_ext.lab.data.atomic import write_text
from bido_ext.lab.data.registry import listings
from bido_ext.lab.data.small_data import write_small
from bido_ext.lab.experiments.lock import FOR_OTHERS, locked
from bido_ext.lab.experiments.pipeline import LabData, load_images
from bido_ext.lab.models import find_model
from bido_ext.lab.training.train_config import TrainConfig

from .schema import Recipe

WEIGHTS = "weights"


@dataclass(frozen=True)
class Inputs:
    """Where the files of a run are.

    Attributes:
        recipe: The recipe.
        root: Folder with a folder for each data set and ``weights``; None: nothing is on disk.
        cache: Folder of decoded images; None: that of the user.
        from_scratch: Start from fresh weights where the recipe names a file.
        progress: Show progress bars.
    """

    recipe: Recipe
    root: Path | None
    cache: Path | None = None
    from_scratch: bool = False
    progress: bool = True

    @classmethod
    def small(cls, recipe: Recipe, out: Path, progress: bool) -> Inputs:
        """Tiny data sets drawn into ``out``, for a smoke run; once, though several need them."""
        root, data = out / "data", recipe.data
        wanted = json.dumps(asdict(recipe.smoke_data))
        names = {name for name in (data.private, data.public) if name}
        on_disk = sorted(name for name in names if find_dataset(name).needs_root)
        for name in on_disk:
            with locked(root, FOR_OTHERS):
                drawn = root / f"{name}.json"
                if not drawn.is_file() or drawn.read_text() != wanted:
                    write_small(name, root / name, **asdict(recipe.smoke_data))
                    write_text(drawn, wanted)
        found = root if on_disk else None
        return cls(recipe, found, out / "cache", from_scratch=True, progress=progress)

    def images(self, size: int, *, private_only: bool = False) -> LabData:
        """The recipe's images, ``size`` pixels wide.

        Raises:
            ValueError: A folder is missing, or holds something else or damaged files.
        """
        return load_images(self._config(size, private_only), progress=self.progress)

    def check_public(self) -> None:
        """Look whether there are public images, before hours are spent on what comes first.

        Raises:
            ValueError: A folder is missing or holds something else, or there are no public images.
        """
        if find_dataset(self.recipe.data.private).listing is None:
            return  # digits and CIFAR-10 have theirs
        if not len(listings(self._config(64, private_only=False))[1].public):
            raise ValueError(
                f"recipe {self.recipe.name} attacks with public images and "
                f"{self.recipe.data.public or self.recipe.data.private!r} has none"
            )

    def _config(self, size: int, private_only: bool) -> DataConfig:
        data = self.recipe.data
        two = data.public not in ("", data.private)
        root = self._folder(data.private, alone=not two)
        others = self._folder(data.public, alone=False) if two and not private_only else None
        return DataConfig(
            private=data.private,
            root=root,
            public=data.public or None,
            public_root=others,
            image_size=size,
            crop=None if data.crop < 0 else data.crop,
            public_crop=None if data.public_crop < 0 else data.public_crop,
            val_fraction=data.val_fraction,
            cache=self.cache,
            private_only=private_only,
        )

    def weighted(self, config: TrainConfig) -> TrainConfig:
        """``config`` with the path of its file of pretrained weights, or without one."""
        found = self.weights(config.pretrained)
        return replace(config, pretrained="" if found is None else str(found))

    def weights(self, name: str) -> Path | None:
        """The file ``name`` of the folder ``weights``; None if the run starts from scratch.

        Raises:
            ValueError: There is no such file.
        """
        if not name or self.from_scratch:
            return None
        path = Path(name) if self.root is None else self.root / WEIGHTS / name
        if not path.is_file():
            raise ValueError(
                f"the recipe starts from {name}, and there is no file {path}; put it there, or "
                "give --from-scratch (the numbers will not compare with the published ones)"
            )
        return path

    def _folder(self, name: str, *, alone: bool) -> Path | None:
        """Folder of a data set: ``root/name``, or ``root`` itself if there is but one."""
        if self.root is None or (self.root / name).is_dir():
            return None if self.root is None else self.root / name
        of_weights = (self.root / WEIGHTS).is_dir() and not (self.root / "MNIST").is_dir()
        if of_weights and not find_dataset(name).needs_root:
            return None  # MNIST is fetched, synthetic digits are drawn
        if alone:
            return self.root
        raise ValueError(
            f"--data must hold a folder {name!r} for each data set, {self.root} has none"
        )


def size_of(config: TrainConfig) -> int:
    """Side of the images that the classifier of ``config`` takes."""
    return find_model(config.arch).shape(config.arch_options)[-1]

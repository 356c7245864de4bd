# SPDX-License-Identifier: Apache-2.0
"""Which layers of two models are alike: models by name or file, images by data set or folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bido_ext._counted import counted
from bido_ext.lab.data import DataConfig, ImageSet
from bido_ext.lab.data.atomic import write_text
from bido_ext.lab.data.decode import Preparation
from bido_ext.lab.data.image_cache import decoded
from bido_ext.lab.data.public_folder import public_folder
from bido_ext.lab.experiments.environment import machine_facts, package_versions
from bido_ext.lab.experiments.pipeline import load_images
from bido_ext.lab.models import build_model, load_pretrained
from bido_ext.lab.models.checkpoint import load_model, weights_digest
from bido_ext.lab.report.picture_files import save_picture
from bido_ext.nn.layer_similarity import LayerSimilarity
from bido_ext.nn.similarity_matrix import SimilarityMatrix
from bido_ext.ops.kernels import Gaussian, Kernel, Linear

FORMAT, VERSION = "bido_ext.similarity", 1
KERNELS: dict[str, type[Kernel]] = {"linear": Linear, "gaussian": Gaussian}


@dataclass(frozen=True)
class ModelChoice:
    """A model to look at.

    Attributes:
        name: A file of ``save_model``, or a name as for ``build_model``.
        weights: File of weights for a name; None: untrained.
        num_classes: Outputs of a model by name.
        options: Its architecture options.
        layers: Names; None: the default of LayerSimilarity.
        seed: Of the weights that are drawn.
    """

    name: str
    weights: Path | None = None
    num_classes: int = 1000
    options: Mapping[str, Any] = field(default_factory=dict)
    layers: Sequence[str] | None = None
    seed: int = 0


@dataclass(frozen=True)
class ImageChoice:
    """The images the models see.

    Attributes:
        dataset: Key of ``DATASETS``, of which the test images are taken; None: ``root`` is any folder
            of images, at any depth.
        root: Folder.
        crop: Side of the square cut from the middle of each file; None: the data set's; 0: the largest.
        count: Images at most, drawn with ``seed``.
        batch_size: Of a mini-batch; a last one of fewer than 4 images is left out.
        seed: Of the draw.
    """

    dataset: str | None = None
    root: Path | None = None
    crop: int | None = None
    count: int = 2048
    batch_size: int = 128
    seed: int = 0


@dataclass(frozen=True)
class Comparison:
    """What ``compare_models`` found.

    Attributes:
        similarity: The matrix.
        models: Facts of the one or two models.
        images: Facts of the images.
        settings: measure, estimator and kernel.
    """

    similarity: SimilarityMatrix
    models: tuple[dict[str, Any], ...]
    images: dict[str, Any]
    settings: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "models": list(self.models),
            "images": self.images,
            "settings": self.settings,
            **self.similarity.to_dict(),
            "machine": machine_facts(),
            "versions": package_versions(),
        }

    def save(self, folder: Path) -> tuple[Path, Path, Path]:
        """Write ``similarity.png``, ``similarity.svg`` and ``similarity.json``; returns their paths."""
        numbers = folder / "similarity.json"
        names = [model["label"] for model in self.models]
        figure = self.similarity.plot(
            model=names[0],
            other=names[-1],
            title=f"{counted(self.similarity.samples, 'image')}, "
            f"{counted(self.similarity.batches, 'mini-batch', 'mini-batches')}",
        )
        told = f"{self.settings['measure'].upper()} of the layers of {' and '.join(names)}"
        picture, themed = (
            save_picture(figure, folder / f"similarity{suffix}", told)
            for suffix in (".png", ".svg")
        )
        write_text(numbers, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")
        return picture, themed, numbers


def compare_models(
    model: ModelChoice,
    other: ModelChoice | None,
    images: ImageChoice,
    *,
    measure: str = "cka",
    estimator: str = "unbiased",
    kernel: str = "linear",
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Comparison:
    """Compare all layers of one model, or of two, on the same images.

    Args:
        model, other: The models; without other the layers of model are compared with each other.
        images: What they see, each in its own size.
        measure, estimator: As for :class:`bido_ext.LayerSimilarity`.
        kernel: "linear", or "gaussian" with sigma 5.0 sqrt(d).
        device: Where the models run.
        progress: Show progress bars.

    Raises:
        ValueError: A model, file, layer, folder or setting does not fit.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}")
    choices = [model] if other is None else [model, other]
    built = [_built(choice) for choice in choices]
    networks = [network.to(device) for network, _ in built]
    similarity = LayerSimilarity(
        networks[0],
        None if other is None else networks[1],
        model.layers,
        None if other is None else other.layers or _matching(networks[1], model.layers),
        measure,
        estimator,
        kernel=KERNELS[kernel](),
    )
    sets = [_images(images, network, progress) for network in networks]
    chosen = _drawn(len(sets[0]), images)
    for rows in tqdm(chosen, desc="compare", unit="batch", disable=not progress):
        similarity.update(*(pixels.batch(rows).to(device) for pixels in sets))
    return Comparison(
        similarity.compute(sync=False),
        tuple(facts for _, facts in built),
        {**asdict(images), "root": None if images.root is None else images.root.name},
        {"measure": measure, "estimator": estimator, "kernel": kernel},
    )


def comparison_text(found: Comparison) -> str:
    """A few lines: what was compared, and for each layer the most similar one."""
    result = found.similarity
    values = result.matrix.nan_to_num(nan=-torch.inf)
    if len(found.models) == 1:  # each layer is most similar to itself
        values = values.clone().fill_diagonal_(-torch.inf)
    width = max(len(name) for name in result.layers)
    lines = [
        f"{result.measure.upper()} ({result.estimator}) of {len(result.layers)} x "
        f"{len(result.other_layers)} layers, {counted(result.samples, 'image')} in "
        f"{counted(result.batches, 'mini-batch', 'mini-batches')}",
        f"{'layer':<{width}}  most similar in {found.models[-1]['label']}",
    ]
    for name, row in zip(result.layers, values, strict=True):
        best = int(row.argmax())
        known = bool(torch.isfinite(row[best]))
        told = f"{float(row[best]):6.3f}  {result.other_layers[best]}" if known else "     –"
        lines.append(f"{name:<{width}}  {told}")
    return "\n".join(lines)


def _built(choice: ModelChoice) -> tuple[nn.Module, dict[str, Any]]:
    """The model and what the JSON says of it."""
    facts: dict[str, Any]
    if Path(choice.name).suffix == ".pt":
        if choice.weights is not None or choice.options:
            raise ValueError(f"{choice.name} brings its weights and options: give none of your own")
        network, content = load_model(choice.name)
        facts = {"label": f"{content['arch']} ({content['defence']})", "arch": content["arch"]}
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(choice.seed)
            network = build_model(choice.name, choice.num_classes, options=choice.options)
        if choice.weights is not None:
            load_pretrained(network, choice.weights, reinit=())
        label = choice.name.rpartition("/")[2]
        facts = {
            "label": label if choice.weights else f"{label} (untrained, seed {choice.seed})",
            "arch": choice.name,
            "arch_options": dict(choice.options),
            "weights": None if choice.weights is None else choice.weights.name,
        }
    return network.eval(), {**facts, "sha256": weights_digest(network)}


def _matching(network: nn.Module, layers: Sequence[str] | None) -> Sequence[str] | None:
    """The layers of the first model for the second, where it has all of them."""
    names = {name for name, _ in network.named_modules()}
    return layers if layers and set(layers) <= names else None


class _Pixels:
    """The images as one model wants them: its size and number of channels."""

    def __init__(self, images: ImageSet, channels: int) -> None:
        self._images, self._channels = images, channels
        if images.shape[0] not in (1, channels):
            raise ValueError(
                f"the model looks at images of {channels} channel(s), these have {images.shape[0]}"
            )

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, rows: Tensor) -> Tensor:
        """(n, channels, size, size) in [0, 1]; grey images are repeated."""
        pixels = self._images.batch(rows)
        return pixels.expand(-1, self._channels, -1, -1).contiguous()


def _images(choice: ImageChoice, network: nn.Module, progress: bool) -> _Pixels:
    body: Any = getattr(network, "body", network)  # under MID
    channels, size = body.input_shape[0], body.input_shape[-1]
    if choice.dataset is not None:
        config = DataConfig(
            choice.dataset, choice.root, image_size=size, crop=choice.crop, private_only=True
        )
        return _Pixels(
            ImageSet.of(load_images(config, progress=progress).task.judge_test), channels
        )
    if choice.root is None:
        raise ValueError("--dataset or --data must say which images the models see")
    paths = public_folder(choice.root, 0).public.paths
    generator = torch.Generator().manual_seed(choice.seed)
    drawn = torch.randperm(len(paths), generator=generator)[: choice.count].sort().values
    preparation = Preparation(size, choice.crop or 0, channels)
    pixels, _ = decoded([paths[i] for i in drawn.tolist()], preparation, progress=progress)
    return _Pixels(ImageSet(pixels, None), channels)


def _drawn(available: int, choice: ImageChoice) -> list[Tensor]:
    """Positions of the images, a mini-batch each."""
    for name, value in (("--images", choice.count), ("--batch-size", choice.batch_size)):
        if value < 4:
            raise ValueError(f"{name} must be at least 4, got {value}")
    generator = torch.Generator().manual_seed(choice.seed)
    rows = torch.randperm(available, generator=generator)[: choice.count]
    if len(rows) < 4:
        raise ValueError(f"at least 4 images are needed, there are {len(rows)}")
    return [part for part in rows.split(choice.batch_size) if len(part) >= 4]

# SPDX-License-Identifier: Apache-2.0
"""Images kept as they come (bytes on disk or floats in memory), handed out as float batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

_HASHED_AT_ONCE = 256


class ImageSet:
    """Images with labels, a batch at a time; the whole is never converted unless asked for.

    Args:
        images: (n, channels, height, width), uint8 (0..255, may be a memory map) or float32 in
            [0, 1].
        labels: (n,) int64, or None for public images.
        rows: which of ``images`` belong to the set, in order; default: all. ``labels`` are those of
            all images.
    """

    def __init__(self, images: Tensor, labels: Tensor | None, rows: Tensor | None = None) -> None:
        if images.dim() != 4 or images.dtype not in (torch.uint8, torch.float32):
            raise ValueError(
                "images must be (n, channels, height, width) of uint8 or float32, got "
                f"{tuple(images.shape)} of {images.dtype}"
            )
        if labels is not None and len(labels) != len(images):
            raise ValueError(
                f"labels must have one entry an image, got {len(labels)} for {len(images)} images"
            )
        self._images = images
        self._rows = torch.arange(len(images)) if rows is None else rows
        self._labels = None if labels is None else labels[self._rows]

    @classmethod
    def of(cls, data: ImageSet | TensorDataset) -> ImageSet:
        """``data`` as an ``ImageSet``; a ``TensorDataset`` holds images and perhaps labels."""
        return (
            data
            if isinstance(data, ImageSet)
            else cls(*data.tensors, *[None][len(data.tensors) - 1 :])
        )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self._images.shape[1:]
        return channels, height, width

    @property
    def labels(self) -> Tensor:
        """(n,) int64.

        Raises:
            ValueError: If these are public images, which have none.
        """
        if self._labels is None:
            raise ValueError("labels: public images have none")
        return self._labels

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All images as float32 in [0, 1], and the labels if there are any: much memory."""
        images = self.batch(torch.arange(len(self)))
        return (images,) if self._labels is None else (images, self._labels)

    def batch(self, chosen: Tensor) -> Tensor:
        """Images ``chosen`` (positions in this set) as float32 in [0, 1]."""
        images = self._images[self._rows[chosen]]
        return images if images.dtype == torch.float32 else images.float().div_(255)

    def __getitem__(self, chosen: Tensor | int) -> Tensor:
        """One image, or those of positions or of a mask, as float32 in [0, 1]."""
        index = torch.as_tensor(chosen)
        if index.dtype == torch.bool:
            index = index.nonzero().flatten()
        found = self.batch(index.reshape(-1))
        return found[0] if index.dim() == 0 else found

    def sha256(self) -> str:
        """Hash of the images as they are kept, in order, without the labels."""
        digest = hashlib.sha256(repr((self._images.dtype, self.shape)).encode())
        for rows in self._rows.split(_HASHED_AT_ONCE):
            digest.update(self._images[rows].contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels in order, ``size`` at a time."""
        for chosen in torch.arange(len(self)).split(size):
            yield self.batch(chosen), self.labels[chosen]

    def only(self, classes: Sequence[int]) -> ImageSet:
        """The images of some classes."""
        keep = torch.isin(self.labels, torch.tensor(list(classes)))
        return self.subset(keep.nonzero().flatten())

    def subset(self, chosen: Tensor) -> ImageSet:
        """The images at positions ``chosen``, in that order."""
        subset = ImageSet(self._images, None, self._rows[chosen])
        subset._labels = None if self._labels is None else self._labels[chosen]
        return subset

# SPDX-License-Identifier: Apache-2.0
"""Files of PyTorch written whole or not at all."""

from pathlib import Path
from typing import Any

import torch

from bido_ext.lab.data.atomic import replacing


def save_atomic(obj: Any, path: Path | str) -> None:
    """``torch.save`` into a temporary file beside ``path``, then rename: all of it or nothing."""
    # Into a file of Python's: PyTorch's own says nothing of the disk.
    with replacing(Path(path)) as partial, partial.open("wb") as file:
        torch.save(obj, file)

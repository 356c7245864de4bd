# SPDX-License-Identifier: Apache-2.0
"""MNIST: the wheel, the cache and a user's folder, each also damaged."""

import gzip
import hashlib
import io
import pickle
import struct
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bido_ext.lab.data import mnist
from bido_ext.lab.data.synthetic import synthetic_digits


class _Python2Pickler(pickle._Pickler):
    """Writes bytes the way Python 2 wrote its strings, as in the published file."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_bytes(self, obj: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(obj)) + obj)
        self.memoize(obj)

    dispatch[bytes] = save_bytes


def _pickled_digits(digits: mnist.RawDigits) -> bytes:
    """The digits in the wheel's layout: (train, valid, test), float32 pixels / 256."""
    pixels = [(x.reshape(len(x), -1) / 256).astype(np.float32) for x in _images(digits)]
    labels = [y.astype(np.int64) for y in (digits.train_labels, digits.test_labels)]
    parts = ((pixels[0][:-10], labels[0][:-10]), (pixels[0][-10:], labels[0][-10:]))
    text = io.BytesIO()
    _Python2Pickler(text, protocol=2).dump((*parts, (pixels[1], labels[1])))
    # numpy 1's module names, as in the published file.
    return gzip.compress(text.getvalue().replace(b"numpy._core.m", b"numpy.core.m"))


def _images(digits: mnist.RawDigits) -> tuple[np.ndarray, np.ndarray]:
    return digits.train_images, digits.test_images


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> mnist.RawDigits:
    """Small digits that pass for MNIST, and a cache folder of the test's own."""
    digits = synthetic_digits(40, 20)
    monkeypatch.setattr(mnist, "DIGITS_SHA256", digits.sha256())
    monkeypatch.setenv("BIDO_EXT_CACHE", str(tmp_path / "cache"))
    return digits


def _write_wheel(path: Path, packed: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(mnist.MEMBER, packed)
    monkeypatch.setattr(mnist, "MEMBER_SHA256", hashlib.sha256(packed).hexdigest())
    monkeypatch.setattr(mnist, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_wheel_gives_the_digits_exactly(digits, tmp_path, monkeypatch):
    wheel = _write_wheel(tmp_path / "mnist.whl", _pickled_digits(digits), monkeypatch)
    assert mnist.read_wheel(wheel).sha256() == digits.sha256()


def test_changed_wheel_is_refused_and_removed(digits, tmp_path, monkeypatch):
    wheel = _write_wheel(tmp_path / "mnist.whl", _pickled_digits(digits), monkeypatch)
    wheel.write_bytes(wheel.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"mnist\.whl is corrupt: SHA-256 [0-9a-f]{64}, expected"):
        mnist.read_wheel(wheel)
    assert not wheel.exists()


def test_changed_member_is_refused(digits, tmp_path, monkeypatch):
    wheel = _write_wheel(tmp_path / "mnist.whl", _pickled_digits(digits), monkeypatch)
    monkeypatch.setattr(mnist, "MEMBER_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"mnist\.pkl\.gz is corrupt"):
        mnist.read_wheel(wheel)


def test_pickle_with_code_is_not_executed(digits, tmp_path, monkeypatch):
    packed = gzip.compress(b"cos\nsystem\n(S'touch owned'\ntR.")
    wheel = _write_wheel(tmp_path / "mnist.whl", packed, monkeypatch)
    with pytest.raises(ValueError, match=r"asks for os\.system; only numpy arrays"):
        mnist.read_wheel(wheel)


def test_fetched_once_then_cached(digits, monkeypatch):
    calls = []

    def pip(command, **_):
        calls.append(command)
        folder = Path(command[command.index("--dest") + 1])
        _write_wheel(folder / "mnist.whl", _pickled_digits(digits), monkeypatch)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(mnist.subprocess, "run", pip)
    first, second = mnist.load_mnist(), mnist.load_mnist()
    assert first.sha256() == second.sha256() == digits.sha256()
    assert len(calls) == 1
    assert [path.name for path in mnist.cache_dir().iterdir()] == [mnist.CACHE_NAME]


def test_failed_fetch_says_why(digits, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: one\nERROR: no connection\n")
    monkeypatch.setattr(mnist.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match="no connection; give a torchvision MNIST folder"):
        mnist.load_mnist()
    assert not mnist.cache_dir().exists()


@pytest.mark.parametrize("damage", ["truncated", "other digits", "not a zip"])
def test_corrupt_cache_is_named_and_removed(digits, damage):
    path = mnist.cache_dir() / mnist.CACHE_NAME
    mnist._write_cache(
        synthetic_digits(40, 20, seed=1) if damage == "other digits" else digits, path
    )
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "not a zip":
        path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=f"corrupt .*expected {mnist.DIGITS_SHA256}.*removed"):
        mnist.load_mnist()
    assert not path.exists()


def _write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def test_torchvision_folder_is_read(tmp_path):
    digits, raw = synthetic_digits(40, 20), tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, stem in (("train", "train"), ("test", "t10k")):
        _write_idx(raw / f"{stem}-images-idx3-ubyte", getattr(digits, f"{part}_images"))
        _write_idx(raw / f"{stem}-labels-idx1-ubyte", getattr(digits, f"{part}_labels"))
    assert mnist.load_mnist(tmp_path).sha256() == digits.sha256()


def test_folder_without_mnist_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no readable torchvision MNIST"):
        mnist.load_mnist(tmp_path)


@pytest.mark.slow
def test_real_mnist(tmp_path, monkeypatch):
    monkeypatch.setenv("BIDO_EXT_CACHE", str(tmp_path))
    digits = mnist.load_mnist()
    assert digits.train_images.shape == (60000, 28, 28)
    assert digits.test_images.shape == (10000, 28, 28)
    assert digits.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(digits.train_labels)[:5].tolist() == [5923, 6742, 5958, 6131, 5842]
    assert digits.train_images.max() == 255

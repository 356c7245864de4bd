# SPDX-License-Identifier: Apache-2.0
"""A bundle of compiled libraries serves what it was made for, and is refused elsewhere with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu_bundle import BundleError, here, misfit, source_digest, take_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "gpu-bundle"
    folder.mkdir()
    (folder / "bido_cpu.so").write_bytes(b"one")
    facts = {**here(), "files": ["bido_cpu.so"]}
    (folder / "bundle.json").write_text(json.dumps(facts))
    return folder


def changed(bundle: Path, **facts: str) -> None:
    path = bundle / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def test_a_bundle_that_fits_lies_beside_the_package(bundle: Path, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    assert "libraries of gpu-bundle/" in take_bundle(bundle, package)
    assert (package / "bido_cpu.so").read_bytes() == b"one"
    assert [p.name for p in package.iterdir()] == ["bido_cpu.so"]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"python": "3.9"}, "made for Python 3.9, this is Python"),
        ({"torch": "2.1.0"}, "made for PyTorch 2.1.0, this is PyTorch"),
        ({"sources": "0"}, "other sources than this checkout's"),
    ],
)
def test_elsewhere_it_is_refused(
    bundle: Path, tmp_path: Path, facts: dict[str, str], reason: str
) -> None:
    changed(bundle, **facts)
    with pytest.raises(BundleError, match=reason):
        take_bundle(bundle, tmp_path)
    assert not (tmp_path / "bido_cpu.so").exists()


def test_nothing_compiled_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="python setup.py build_ext --inplace"):
        take_bundle(tmp_path / "none", tmp_path)


def test_digest_sees_every_source(tmp_path: Path) -> None:
    (tmp_path / "csrc").mkdir()
    (tmp_path / "CMakeLists.txt").write_text("a")
    (tmp_path / "csrc" / "one.cu").write_text("a")
    before = source_digest(tmp_path)
    (tmp_path / "csrc" / "one.cu").write_text("b")
    assert source_digest(tmp_path) != before
    assert misfit({**here()}, here()) == ""

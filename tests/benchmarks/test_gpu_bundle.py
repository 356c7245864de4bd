# SPDX-License-Identifier: Apache-2.0
"""A bundle of compiled libraries serves what it was made for, and is refused elsewhere with the reason."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_bundle
from benchmarks.gpu_bundle import BundleError, here, make_bundle, source_digest
from benchmarks.gpu_check import __main__ as gpu_check
from benchmarks.gpu_check import libraries
from benchmarks.gpu_check.card import Capability, architecture_for, capability, runs_on
from benchmarks.gpu_check.libraries import build_here, libraries_for, misfit, take_bundle
from benchmarks.gpu_check.process import Ended

HOPPER, AMPERE = (9, 0), (8, 0)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "gpu-bundle"
    folder.mkdir()
    (folder / "bido_cpu.so").write_bytes(b"one")
    facts = {**here(), "archs": "90a", "files": ["bido_cpu.so"]}
    (folder / "bundle.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    return folder


def changed(bundle: Path, **facts: str) -> None:
    path = bundle / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def take(bundle: Path, package: Path, card: Capability | None = HOPPER) -> str:
    return take_bundle(card, bundle, package, package.parent / "built.json")


def test_a_bundle_that_fits_lies_beside_the_package(bundle: Path, package: Path) -> None:
    told = take(bundle, package)
    assert "libraries of gpu-bundle/" in told
    assert "running as machine code" in told
    assert (package / "bido_cpu.so").read_bytes() == b"one"
    assert [p.name for p in package.iterdir()] == ["bido_cpu.so"]


@pytest.mark.parametrize(
    ("facts", "card", "reason"),
    [
        ({"python": "3.9"}, None, "made for Python 3.9, this is 3"),
        ({"torch": "2.1.0"}, None, "made for PyTorch 2.1.0, this is 2"),
        ({"machine": "aarch64"}, None, "made for the processor aarch64, this is"),
        ({"sources": "0"}, None, "other sources than this checkout's"),
        ({}, AMPERE, "it holds code for sm_90a, this card is sm_80. .* BUNDLE_ARCHS=80"),
        ({}, (10, 0), "it holds code for sm_90a, this card is sm_100. .* BUNDLE_ARCHS=100"),
        ({"archs": "80;100"}, (7, 5), "it holds code for sm_80, sm_100, this card is sm_75"),
        ({"archs": "80;100a"}, (12, 0), ""),
    ],
)
def test_elsewhere_it_is_refused(
    bundle: Path, package: Path, facts: dict[str, str], card: Capability | None, reason: str
) -> None:
    changed(bundle, **facts)
    if not reason:  # the PTX of 80 serves what is newer
        assert "running as PTX" in take(bundle, package, card)
        return
    with pytest.raises(BundleError, match=reason) as refusal:
        take(bundle, package, card)
    assert "\n" not in str(refusal.value)
    assert "make gpu-bundle BUNDLE_PYTHON=" in str(refusal.value)
    assert not (package / "bido_cpu.so").exists()


def test_nothing_compiled_says_what_to_do(package: Path) -> None:
    with pytest.raises(BundleError, match="BIDO_CUDA_ARCHS=80 python setup.py build_ext --inplace"):
        take(package / "none", package, AMPERE)


def test_libraries_built_in_place_for_another_card_are_refused(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = f"cpython-{sys.version_info[0]}{sys.version_info[1]}-"
    (package / f"_C.{tag}x.so").touch()
    monkeypatch.setattr(libraries, "architectures_of", lambda module: ["80", "90a"])
    # Without bido_cuda there is nothing that a card could refuse.
    assert take(package / "none", package, (7, 5)) == "libraries as they were built here"
    (package / "bido_cuda.so").touch()
    assert "running as machine code" in take(package / "none", package, HOPPER)
    with pytest.raises(BundleError, match="this card is sm_75.*BIDO_CUDA_ARCHS=75 python"):
        take(package / "none", package, (7, 5))


def test_architectures_of_the_libraries_here_are_read_without_pytorch() -> None:
    modules = [p for p in gpu_bundle.PACKAGE.glob("_C.*.so") if f"{sys.version_info[1]}-" in p.name]
    if not modules:
        pytest.skip("bido_ext is not built in this checkout")
    from bido_ext import _C

    assert libraries.architectures_of(modules[0]) == _C.build_info()["cuda_architectures"].split()


@pytest.mark.parametrize(
    ("architectures", "card", "how"),
    [
        (["90a"], (9, 0), "machine code"),
        (["90a"], (10, 0), ""),
        (["90a"], (8, 0), ""),
        (["80"], (8, 9), "machine code"),
        (["89"], (8, 6), ""),
        (["80"], (9, 0), "PTX"),
        (["80", "90a", "100"], (9, 0), "machine code"),
        (["80", "90a", "100"], (10, 3), "machine code"),
        (["80", "90a", "100"], (12, 0), "PTX"),
        (["100"], (9, 0), ""),
        (["100f"], (10, 3), "machine code"),
        (["100f"], (12, 0), ""),
        (["100a"], (10, 3), ""),
        ([], (9, 0), ""),
    ],
)
def test_which_code_runs_on_which_card(
    architectures: list[str], card: Capability, how: str
) -> None:
    assert runs_on(architectures, card) == how


def test_a_card_gets_its_own_architecture() -> None:
    assert [architecture_for(c) for c in (HOPPER, AMPERE, (12, 0))] == ["90a", "80", "120"]


def test_a_cpu_has_no_capability() -> None:
    assert capability("cpu") is None


def test_without_nvcc_or_time_nothing_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "run_limited", lambda *_, **__: pytest.fail("it was built"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(BundleError, match="there is no nvcc"):
        build_here(HOPPER, 1e6, tmp_path / "built.json")
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    with pytest.raises(BundleError, match="--budget 550 would allow"):
        build_here(HOPPER, 500, tmp_path / "built.json")


def test_what_does_not_fit_is_built_where_it_can_be_and_kept(
    bundle: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = package.parent / "built.json"
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    calls: list[Any] = []

    def stand_in(command: list[str], limit: float, cwd: Path) -> Ended:
        calls.append((command, limit))
        return Ended(0, 1.0, "")

    monkeypatch.setattr(libraries, "run_limited", stand_in)
    assert build_here(AMPERE, 600, built).startswith("libraries built here for 80 in")
    assert calls[0][0][1] == "BIDO_CUDA_ARCHS=80"
    assert calls[0][1] == libraries.BUILD
    # The next run takes them, though the bundle is still there; another card does not.
    assert (
        take_bundle(AMPERE, bundle, package, built) == "libraries that gpu_check built here for 80"
    )
    assert "gpu-bundle/" in take_bundle(HOPPER, bundle, package, built)
    assert not built.exists()  # the bundle's libraries lie there now


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (Ended(None, 240.0, ""), "was stopped after 240.0 s: no message"),
        (Ended(1, 2.0, "a\nerror: no cmake\n"), "ended with 1 after 2.0 s: error: no cmake"),
    ],
)
def test_a_build_that_fails_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: Ended, said: str
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(libraries, "run_limited", lambda *_, **__: ended)
    with pytest.raises(BundleError, match=said):
        build_here(HOPPER, 600, tmp_path / "built.json")
    assert not (tmp_path / "built.json").exists()


def test_gpu_check_refuses_in_one_line_before_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(card: Capability | None) -> str:
        raise BundleError("gpu-bundle/ does not fit: it is for another card. Run 'this'.")

    monkeypatch.setattr(libraries, "take_bundle", refuses)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(gpu_check, "capability", lambda device: AMPERE)
    assert gpu_check.main(["--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "it is for another card. Run 'this'. Not built here: there is no nvcc" in line
    assert not (tmp_path / "out").exists()
    with pytest.raises(BundleError, match="Run 'this'.$"):  # a rehearsal builds nothing
        libraries_for(None, 1e6)


def test_digest_sees_every_source(tmp_path: Path) -> None:
    (tmp_path / "csrc").mkdir()
    (tmp_path / "CMakeLists.txt").write_text("a")
    (tmp_path / "csrc" / "one.cu").write_text("a")
    before = source_digest(tmp_path)
    (tmp_path / "csrc" / "one.cu").write_text("b")
    assert source_digest(tmp_path) != before
    assert misfit({**here(), "archs": "90a"}, here(), HOPPER) == ""


@pytest.mark.parametrize("archs", ["native", "", "90a;", "sm_90"])
def test_a_bundle_names_its_architectures(archs: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="name architectures, such as '90a'"):
        make_bundle("3.12", "2.11.0", tmp_path, archs)

# SPDX-License-Identifier: Apache-2.0
"""The notebooks of docs/notebooks run, are stored without outputs, and show what their text says."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
#: Of the wall clock, on a machine that does other things as well.
SECONDS = 240
PICTURES = {"attack_and_defence": 1, "bido_in_a_loop": 1, "independence": 2, "two_networks": 1}


def read(path: Path) -> Any:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    return nbformat.read(path, 4)


def run(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the notebook prints."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    for package in ("ipykernel", "matplotlib", "sklearn"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    inherited = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), inherited])))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    book = read(path)
    nbclient.NotebookClient(book, timeout=SECONDS, kernel_name="python3").execute()
    outputs = [out for cell in book.cells for out in cell.get("outputs", ())]
    assert not [out for out in outputs if out.get("name") == "stderr"]
    pictures = sum("image/png" in out.get("data", {}) for out in outputs)
    assert pictures == PICTURES[path.stem]
    return "".join(out.get("text", "") for out in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_is_stored_without_outputs(path: Path) -> None:
    for cell in read(path).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_there_are_the_four() -> None:
    names = {path.stem for path in NOTEBOOKS}
    assert names == set(PICTURES)


# Seven trainings: as long as the two others together. Its calls are those of README, which the tests run.
@pytest.mark.slow
def test_bido_in_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    text = run(ROOT / "docs/notebooks/bido_in_a_loop.ipynb", monkeypatch)
    right = [float(x) for x in re.findall(r"([\d.]+)% right", text)]
    nhsic = [float(x) for x in re.findall(r"nHSIC[^\d]*([\d.]+)", text)]
    assert right[1] > right[0] - 2, "the accuracy stays"
    assert nhsic[1] < 0.75 * nhsic[0], "the last layer depends less on the input"
    assert right[-1] < 20, "beyond that it forgets everything"


def test_two_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    text = run(ROOT / "docs/notebooks/two_networks.ipynb", monkeypatch)
    cka = [float(x) for x in re.findall(r"CKA ([-\d.]+)", text)]
    trained, untrained = cka[: len(cka) // 2], cka[len(cka) // 2 :]
    assert min(trained) > 0.8
    assert untrained[0] > 0.9
    assert untrained[-1] < 0.6, "the last layers are not alike without training"
    biased, unbiased = (float(re.search(rf"\b{e}: (\S+)", text)[1]) for e in ("biased", "unbiased"))
    assert biased > 0.9
    assert abs(unbiased) < 0.15


def test_independence(monkeypatch: pytest.MonkeyPatch) -> None:
    text = run(ROOT / "docs/notebooks/independence.ipynb", monkeypatch)
    assert abs(float(re.search(r"correlation ([-\d.]+)", text)[1])) < 0.2
    assert "p = 0.0010" in text
    assert 3 <= int(re.search(r"(\d+) of 200", text)[1]) <= 20
    moved, fresh = (float(x) for x in re.findall(r"MMD to a \w+ sample: ([\d.]+)", text))
    assert moved > 10 * fresh


@pytest.mark.slow
def test_attack_and_defence(monkeypatch: pytest.MonkeyPatch) -> None:
    text = run(ROOT / "docs/notebooks/attack_and_defence.ipynb", monkeypatch)
    assert float(re.search(r"the judge knows ([\d.]+)%", text)[1]) > 85
    natural = [float(x) for x in re.findall(r"([\d.]+)% natural accuracy", text)]
    attack = [float(x) for x in re.findall(r"attack accuracy (\d+)%", text)]
    assert natural[0] > 80
    assert attack[0] > 40, "twice chance"

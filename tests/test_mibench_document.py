# SPDX-License-Identifier: Apache-2.0
"""docs/mibench.md names each attack and each defence of ours once, with the file that it is in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bido_ext.lab.attacks import ATTACKS
from bido_ext.lab.defences import DEFENCES

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "mibench.md").read_text()


@pytest.mark.parametrize(("table", "registry"), [("attacks", ATTACKS), ("defences", DEFENCES)])
def test_ours_are_there_once_and_lie_where_it_says(table: str, registry: dict[str, object]) -> None:
    text = PAGE.split(f"<!-- table {table} -->")[1].split("<!-- end -->")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")][1:]
    folder, ours = ROOT / "bido_ext" / "lab" / table, []
    for *_, name, file in rows:
        found = re.findall(r"`([^`]+)`", name)
        ours += [each for each in found if not each.startswith("--")]
        assert bool(found) == (file.strip() != "–")
        for each in re.findall(r"`([^`]+)`", file):
            assert (folder / each).exists(), each
    assert sorted(ours) == sorted(registry)

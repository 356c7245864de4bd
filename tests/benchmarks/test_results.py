# SPDX-License-Identifier: Apache-2.0
"""Result files, the tables made of them, and the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import plot, table
from benchmarks.machine import ROOT, device_slug
from benchmarks.results import exponent, growth, growth_text, load, save


def record(n: int, own_ms: float = 2.0, d: int = 8, refusal: str | None = None) -> dict[str, Any]:
    timed = {"median_ms": 9.0, "q20_ms": 8.0, "q80_ms": 9.5, "times_floor": 9.0}
    return {
        "spec": {"name": "hsic", "n": n, "dims": [d], "num_classes": None},
        "dtype": "float32",
        "threads": 2,
        "rounds": 7,
        "floor": {"what": "floor", "ms": 1e-6 * n**2, "with_cubic_ms": 1.0},
        "rows": [
            {
                "name": "bido_ext",
                "refusal": None,
                "median_ms": own_ms,
                "q20_ms": own_ms,
                "q80_ms": own_ms,
                "times_floor": own_ms,
                "value_error": 1e-8,
                "gradient_error": 2e-6,
                "memory": {"growth_bytes": 1000 * n, "beyond_nn": 0.75},
            },
            {"name": "published", "refusal": refusal, **({} if refusal else timed)},
        ],
        "machine": {"device": "Testor 1", "torch": "2.x", "bido_ext": "0.1", "commit": "abc"},
    }


def test_save_replaces_the_same_shape_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "device" / "hsic.json"
    save(path, "hsic", [record(128), record(64)])
    save(path, "hsic", [record(64, own_ms=1.0)])
    times = [(r["spec"]["n"], r["rows"][0]["median_ms"]) for r in load(path)]
    assert times == [(64, 1.0), (128, 2.0)]
    assert [p.name for p in path.parent.iterdir()] == ["hsic.json"], "a partial file was left"


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "other", "version": 1}'])
def test_foreign_file_is_not_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"notes\.json is not"):
        save(path, "hsic", [record(64)])
    assert path.read_text() == text


def test_growth_fits_exponents() -> None:
    fits = growth([record(n, own_ms=1e-4 * n**2) for n in (64, 128, 512)])
    by_name = {fit["name"]: fit for fit in fits}
    assert by_name["floor"]["time"] == pytest.approx(2)
    assert by_name["bido_ext"]["time"] == pytest.approx(2)
    assert by_name["bido_ext"]["memory"] == pytest.approx(1)
    assert by_name["published"]["memory"] is None
    assert growth([record(64), record(128, d=9)]) == [], "different d must not be one curve"
    assert exponent([1, 2], [None, 3.0]) is None


def with_streaming(n: int, d: int) -> dict[str, Any]:
    """A record whose streaming row has time ~ n^2 d and memory ~ n; only from n = 1024 on."""
    one = record(n, own_ms=1e-6 * n**2 * d, d=d)
    if n >= 1024:
        memory = {"growth_bytes": 100 * n, "beyond_nn": 0.1}
        time = {"median_ms": 2e-6 * n**2 * d, "q20_ms": 1.0, "q80_ms": 9e9, "times_floor": 2.0}
        row = {"name": "bido_ext streaming", "refusal": None, "memory": memory, **time}
        one["rows"].append(row)
    return one


def test_growth_is_per_columns_and_knows_modes_of_larger_n() -> None:
    records = [with_streaming(n, d) for d in (8, 64) for n in (256, 1024, 4096)]
    fits = {(fit["name"], *fit["dims"]): fit for fit in growth(records)}
    for d in (8, 64):
        own, streaming = fits["bido_ext", d], fits["bido_ext streaming", d]
        assert own["n"] == [256, 1024, 4096]
        assert streaming["n"] == streaming["memory_n"] == [1024, 4096]
        assert own["time"] == pytest.approx(2)
        assert streaming["time"] == pytest.approx(2)
        assert streaming["memory"] == pytest.approx(1)
    text = growth_text(records)
    assert "bido_ext streaming, d = 64, float32, 2 threads: time ~ n^2.00, memory ~ n^1.00" in text
    assert growth_text(records[:1]) == ""


def test_growth_of_a_record_without_times() -> None:
    """Memory of one large case stands beside the times of the smaller ones."""
    large = with_streaming(8192, 8)
    large["floor"]["ms"] = None
    for row in large["rows"]:
        row.pop("median_ms", None)
    fits = {
        fit["name"]: fit for fit in growth([with_streaming(n, 8) for n in (1024, 2048)] + [large])
    }
    assert fits["bido_ext streaming"]["n"] == fits["floor"]["n"] == [1024, 2048]
    assert fits["bido_ext streaming"]["memory_n"] == [1024, 2048, 8192]


def test_table_is_filled_and_found_stale(tmp_path: Path) -> None:
    results = tmp_path / "results"
    save(results / "dev" / "hsic.json", "hsic", [record(64, 1.25), record(128, refusal="off")])
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- benchmark:dev/hsic -->\n<!-- /benchmark -->\nafter\n")
    assert table.stale([readme], check=True, results=results) == [readme]
    assert "| 64 |" not in readme.read_text(), "--check wrote the file"
    table.stale([readme], check=False, results=results)
    text = readme.read_text()
    assert "| 64 | 0.0041 | 1.25 | 9.00 | 2e-06 | 0.75 |" in text
    assert "| 128 | 0.0164 | 2.00 | refused | 2e-06 | 0.75 |" in text
    assert "d = 8; float32, 2 threads, 7 rounds. Testor 1" in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert table.stale([readme], check=True, results=results) == []
    save(results / "dev" / "hsic.json", "hsic", [record(64, 1.5)])
    assert table.stale([readme], check=True, results=results) == [readme]


def test_table_says_what_the_control_says() -> None:
    plain = record(64)
    assert "same round" not in table.markdown_table([plain])
    paired = {"paired_ratio": 1.01, "paired_ratio_95": [1.0, 1.02]}
    rows = [{**plain["rows"][0], **paired}, plain["rows"][1]]
    again = {"what": "floor again", **paired, "paired_ratio": 0.99}
    wrapped = table.markdown_table([{**plain, "rows": rows, "control": again}])
    assert all(len(line) <= 100 for line in wrapped.splitlines() if not line.startswith("|"))
    text = " ".join(wrapped.split())
    assert (
        "Times floor of the same round, median [95 %]: "
        "bido_ext 1.010 [1.000, 1.020], floor again 0.990 [1.000, 1.020]." in text
    )


def test_table_of_a_missing_file_is_an_error(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- benchmark:dev/nothing -->\n<!-- /benchmark -->\n")
    with pytest.raises(ValueError, match="dev/nothing"):
        table.stale([readme], check=True, results=tmp_path)
    assert table.main([str(readme), "--check"]) == 2


def test_tables_of_this_repository_are_current() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    assert table.stale(pages, check=True) == [], "run python -m benchmarks.table"


def test_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "hsic.json"
    save(path, "hsic", [record(64), record(128), record(64, d=9)])
    assert plot.main([str(path)]) == 2, "two values of d are not one curve"
    assert "choose with --d" in capsys.readouterr().err
    assert plot.main([str(path), "--d", "8"]) == 0
    assert path.with_suffix(".png").stat().st_size > 10_000


def test_plot_has_log_axes_and_exponents() -> None:
    pytest.importorskip("matplotlib")
    untimed = with_streaming(8192, 8)
    untimed["floor"]["ms"] = None
    for row in untimed["rows"]:
        row.pop("median_ms", None)
    times, memory = plot.draw([with_streaming(1024, 8), with_streaming(4096, 8), untimed]).axes
    for axes, label in ((times, "n^2.00"), (memory, "n^1.00")):
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        legend = axes.get_legend()
        assert legend is not None
        assert f"bido_ext streaming, {label}" in [text.get_text() for text in legend.get_texts()]


def test_device_slug_is_a_folder_name() -> None:
    assert set(device_slug("cpu")) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")

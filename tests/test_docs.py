# SPDX-License-Identifier: Apache-2.0
"""The pages say what is there: links, commands, names, figures, pictures; and the site builds without a warning."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bido_ext as bx

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted(path for path in DOCS.rglob("*.md") if "_" not in path.relative_to(DOCS).parts[0][:1]),
]
FENCE = re.compile(r"^(`{3,}|:{3,}).*?^\1\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
INCLUDE = re.compile(
    r"```\{literalinclude\} (\S+)\n:pyobject: (\w+)\n:emphasize-lines: ([\d,]+)\n```"
)


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def anchors(page: Path) -> set[str]:
    """Of a Markdown file, as its headings are addressed on the site and on code hosts."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name}: {target}; there are {anchors(there)}"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_lines_end_within_100_columns(page: Path) -> None:
    prose = FENCE.sub("", page.read_text())
    long = [line for line in prose.splitlines() if len(line) > 100 and not line.startswith("|")]
    assert not long


def test_every_page_is_in_the_navigation() -> None:
    listed = set()
    for page in (DOCS / "index.md", DOCS / "api" / "index.md", DOCS / "notebooks" / "index.md"):
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL):
            for line in tree.splitlines():
                if line and not line.startswith(":"):
                    entry = re.sub(r".*<(.*)>", r"\1", line)
                    listed.add((page.parent / entry).relative_to(DOCS).as_posix())
    there = {
        path.relative_to(DOCS).with_suffix("").as_posix()
        for kind in ("*.md", "*.ipynb")
        for path in DOCS.rglob(kind)
    }
    assert there - {"index"} <= listed
    assert listed - there <= {"defences"}, "conf.py leaves only these out"


def commands() -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        for block in re.findall(r"^ *```\w*\n(.*?)^ *```", page.read_text(), re.M | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if (words := line.split("#")[0].split()) and words[0] == "bido":
                    yield f"{page.name}: {line}", words[1:]


def test_commands_on_the_pages_exist() -> None:
    pytest.importorskip("typer")
    from typer.main import get_command

    from bido_ext.cli.app import app

    root, seen = get_command(app), 0
    for where, words in commands():
        command: Any = root
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
        for inner in getattr(command, "commands", {}).values() if command is not root else ():
            options |= {name for p in inner.params for name in p.opts}  # study DIR: study build DIR
        assert command is not root or words == ["--help"], where
        for word in words:
            if re.match(r"--?[a-z]", word):
                assert word.split("=")[0] in options | {"--help"}, where
        seen += 1
    assert seen > 30


def test_every_public_name_is_in_the_reference() -> None:
    text = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    listed = set(re.findall(r"^\.\. auto\w+:: bido_ext\.(\w+)$", text, re.MULTILINE))
    assert set(bx.__all__) - {"__version__"} <= listed


def test_the_lines_that_bido_adds_are_shown_as_such() -> None:
    found = INCLUDE.findall((DOCS / "training_loop.md").read_text())
    for file, name, lines in found:
        source = (DOCS / file).read_text()
        (node,) = [n for n in ast.parse(source).body if getattr(n, "name", "") == name]
        assert node.end_lineno is not None
        body = source.splitlines()[node.lineno - 1 : node.end_lineno]
        marked = [i for i, line in enumerate(body, 1) if "# bido" in line]
        assert marked == [int(i) for i in lines.split(",")], f"{file}, {name}"
    assert len(found) >= 10


def test_the_table_of_examples_counts_the_lines_added() -> None:
    text = (DOCS / "training_loop.md").read_text()
    for path in (DOCS / "examples").glob("*.py"):
        lines = path.read_text().count("# bido")
        assert re.search(rf"\| `docs/examples/{path.name}` \| {lines} \|$", text, re.MULTILINE)


def test_snippets_of_python_are_python() -> None:
    blocks = [
        b
        for page in PAGES
        for b in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    ]
    for block in blocks:
        compile(block, "a snippet", "exec")
    assert len(blocks) > 5


def picture_of_the_demo() -> Any:
    return script_of("tradeoff")


def script_of(name: str) -> Any:
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location(name, DOCS / "pictures" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_shows_the_recorded_run() -> None:
    tradeoff = picture_of_the_demo()
    drawn = tradeoff.draw(json.loads(tradeoff.RESULT.read_text()))
    assert tradeoff.PICTURE.read_text() == drawn, "run python docs/pictures/tradeoff.py"
    curves = (
        tradeoff.CURVES.read_text()
    )  # text is drawn as paths, each under a comment that says it
    for row in json.loads(tradeoff.RESULT.read_text())["rows"]:
        weights = ", ".join(f"{value:g}" for value in row["weights"].values())
        assert f"<!-- {weights or row['label']} -->" in curves


def test_the_picture_of_faces_shows_the_recorded_attacks() -> None:
    faces = script_of("faces")
    picture, rows = faces.PICTURE.read_text(), faces.rows_of(json.loads(faces.RESULT.read_text()))
    assert len(rows) == 19
    for row in rows:
        weights = ", ".join(f"{value:g}" for value in row.weights.values())
        assert f"<!-- {weights or row.label} -->" in picture, "run python docs/pictures/faces.py"
    assert picture.count("<!-- 57% -->") == picture.count("<!-- 46% -->") == 1  # stopped early


def test_the_arena_shows_the_recorded_sweeps() -> None:
    arena = script_of("arena")
    recorded = arena.read_arena(arena.RESULT)
    assert arena.PICTURE.read_text() == arena.draw(recorded), "run python docs/pictures/arena.py"
    text = arena.PAGE.read_text()
    assert arena.BLOCK.search(text)
    assert arena.page(text, recorded) == text, "run python docs/pictures/arena.py"


def test_the_recorded_arena_is_that_of_its_sweeps() -> None:
    recorded = script_of("arena").RESULT
    table = json.loads(recorded.read_text())
    sweeps = {
        path.parent: json.loads(path.read_text()) for path in recorded.parent.rglob("results.json")
    }
    assert len(sweeps) == len({(cell["attack"], cell["seed"]) for cell in table["cells"]})
    for cell in table["cells"]:
        rows = sweeps[recorded.parent / f"seed-{cell['seed']}" / cell["attack"]]["rows"]
        (row,) = (row for row in rows if row["name"] == cell["model"])
        assert row["natural_accuracy"] == cell["natural_accuracy"]
        assert row["attack"]["attack_accuracy"] == cell["attack_accuracy"]


@pytest.mark.parametrize("path", sorted((DOCS / "pictures").glob("*.svg")), ids=lambda p: p.name)
def test_pictures_follow_the_theme_of_the_reader(path: Path) -> None:
    assert "@media (prefers-color-scheme: dark)" in path.read_text()


def test_marked_lines_of_a_program_can_be_read_in_the_dark() -> None:
    styles = pytest.importorskip("pygments.styles")

    def light(colour: str) -> float:  # relative luminance, WCAG 2
        parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    (style,) = re.findall(r'pygments_dark_style = "(.*)"', (DOCS / "conf.py").read_text())
    words = {token["color"] for _, token in styles.get_style_by_name(style) if token["color"]}
    css = (DOCS / "_static" / "site.css").read_text()
    grounds = re.findall(r"\.highlight \.hll \{ background-color: #(\w+); \}", css)
    assert len(grounds) == 2  # the reader's theme, and that of the system
    for ground in grounds:
        for word in words:
            bright, dark = sorted((light(word), light(ground)), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) > 3, word


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_result_on_the_first_screen_is_the_recorded_one(page: str) -> None:
    rows = {
        (row["defence"], *row["weights"].values()): row
        for row in json.loads(picture_of_the_demo().RESULT.read_text())["rows"]
    }
    none, coco = rows[("none",)], rows["bido-coco", 20000, 50]
    cost = 100 * (none["natural_accuracy"] - coco["natural_accuracy"])
    before, after = (100 * row["attack"]["attack_accuracy"] for row in (none, coco))
    text = " ".join((ROOT / page).read_text().split())
    assert f"Without a defence {before:.0f} % of the rebuilt digits" in text
    assert f"to {after:.0f} % for {cost:.0f} points of accuracy" in text
    published = rows["bido-hsic", 0.05, 0.5]["attack"]
    assert published["ci_low"] < none["attack"]["attack_accuracy"] < published["ci_high"]


def test_the_speed_on_the_start_page_is_the_recorded_one() -> None:
    folder = ROOT / "benchmarks" / "results" / "amd-epyc-avx-512-2-cores"
    times: dict[str, list[float]] = {"bido_ext": [], "published": []}
    for measure in ("nhsic", "coco"):
        for record in json.loads((folder / f"bido_step_{measure}.json").read_text())["records"]:
            for row in record["rows"]:
                if row["name"] in times and record["spec"]["n"] in (64, 256, 1024):
                    times[row["name"]].append(row["times_floor"])
    slowest, fastest = max(times["published"]), min(times["published"])
    text = " ".join((DOCS / "index.md").read_text().split())
    assert f"the published algorithm takes {fastest:.1f} to {slowest:.1f} times as long" in text
    assert 0.7 < min(times["bido_ext"]) <= max(times["bido_ext"]) < 1.1


def test_the_diagram_names_files_that_exist() -> None:
    text = (DOCS / "pictures" / "one_row.svg").read_text()
    shown = re.findall(r'class="file" x="(\d+)"[^>]*>([^<]+)<', text)
    whole: list[str] = []
    for _, words in shown:
        if whole and whole[-1].endswith("/"):
            whole[-1] += words
        else:
            whole.append(words)
    assert len(whole) == 9
    assert [name for name in whole if not (ROOT / name).exists()] == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    for package in ("furo", "myst_nb", "latex2mathml"):
        pytest.importorskip(package, reason="the extra docs is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going",
         "-D", "nb_execution_mode=off", str(DOCS), str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*(?:src|href)=\"(?:https?:)?//")
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        assert not loaded.search(page.read_text()), page.name
    assert "<math" in (tmp_path / "concepts.html").read_text()

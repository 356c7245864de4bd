# SPDX-License-Identifier: Apache-2.0
"""One look for all pictures: both themes, and SVG that follows the reader's."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import bido_ext as bx
from bido_ext._drawing import COLOURS, STYLE, colours_of, look, new_figure, svg_of

pytest.importorskip("matplotlib")


def contrast(a: str, b: str) -> float:
    """Of two colours, from 1 to 21 (WCAG 2)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_no_light_colour_comes_twice() -> None:
    light = [pair[0] for pair in COLOURS.values()]
    assert len(set(light)) == len(light)
    assert all(
        re.fullmatch(r"#[0-9a-f]{6}", colour) for pair in COLOURS.values() for colour in pair
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_marks_are_seen_on_their_ground(theme: str) -> None:
    colour = colours_of(theme)
    for name in ("ink", "quiet"):
        assert contrast(colour(name), colour("ground")) >= 4.5, name
    for name in set(COLOURS) - {"ground", "grid", "bars", "missing"}:
        assert contrast(colour(name), colour("ground")) >= 3, name


def test_another_theme_is_refused() -> None:
    with pytest.raises(ValueError, match='"light" or "dark", got \'blue\''):
        colours_of("blue")


def test_svg_follows_the_theme_of_the_reader() -> None:
    with look() as colour:
        figure = new_figure(3, 2)
        axes = figure.add_subplot()
        axes.plot([0, 1], color=colour("attack"), label="a & b")
        axes.legend()
        text = svg_of(figure, "A & B")
    assert STYLE in text
    drawn = text.replace(STYLE, "")
    assert "var(--attack)" in drawn
    assert "var(--ground)" in drawn
    assert "var(--ink)" in drawn
    assert not re.findall(r": #[0-9a-f]{6}", drawn), "a colour that no theme has"
    assert "A &amp; B" in drawn


def test_the_same_figure_gives_the_same_svg() -> None:
    def drawn() -> str:
        with look() as colour:
            figure = new_figure(2, 2)
            figure.add_subplot().plot([0, 1], color=colour("blue"))
            return svg_of(figure, "a line")

    assert drawn() == drawn()


def test_similarity_and_weights_are_drawn_in_both_themes() -> None:
    torch = pytest.importorskip("torch")
    found = bx.SimilarityMatrix(
        torch.eye(2).double(), ("a", "b"), ("c", "d"), "cka", "unbiased", 1, 8
    )
    for theme in ("light", "dark"):
        figure = found.plot(theme=theme)
        assert figure.get_facecolor()[:3] == pytest.approx(rgb(colours_of(theme)("ground")))
        label = figure.axes[0].xaxis.label
        assert label.get_color() == colours_of(theme)("ink")


def rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def test_colours_need_no_matplotlib() -> None:
    code = "import sys, bido_ext._drawing; assert 'matplotlib' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

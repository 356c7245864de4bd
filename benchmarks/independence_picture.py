# SPDX-License-Identifier: Apache-2.0
"""The picture of docs/independence.md: ``python -m benchmarks.independence_picture``.

Null distributions of HSIC by permutation and by the gamma approximation, with the statistic: of a parabola with
noise, whose correlation is zero, and of the same x with an independent y.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import bido_ext as bx
from benchmarks.machine import ROOT
from bido_ext._drawing import look, new_figure, svg_of

N, PERMUTATIONS = 200, 5000


def samples() -> dict[str, tuple[Tensor, Tensor]]:
    """Both pairs, by title."""
    generator = torch.Generator().manual_seed(0)
    x, noise, other = torch.randn(3, N, 1, generator=generator, dtype=torch.float64)
    return {"y = x² + 3 noise": (x, x.square() + 3 * noise), "y independent of x": (x, other)}


def draw(path: Path) -> list[str]:
    """Writes the picture; returns a line per panel."""
    lines = []
    with look() as colour:
        figure = new_figure(8, 2.8)
        axes = figure.subplots(1, 2)
        for axis, (title, (x, y)) in zip(axes, samples().items(), strict=True):
            test = bx.independence_test(x, y, permutations=PERMUTATIONS, sigma="median")
            gamma = bx.independence_test(x, y, method="gamma", sigma="median")
            assert isinstance(test.null, Tensor)
            axis.hist(
                test.null.numpy(), bins=60, density=True, color=colour("bars"), label="permutations"
            )
            shape, scale = gamma.null
            at = torch.linspace(float(test.null.min()), float(test.null.max()), 300).double()
            log = (shape - 1) * at.log() - at / scale - shape * torch.log(torch.tensor(scale))
            density = (log - torch.lgamma(torch.tensor(shape))).exp()
            axis.plot(at, density, color=colour("ink"), label="gamma")
            axis.axvline(test.statistic, color=colour("attack"), label="statistic")
            axis.set_title(f"{title}:  p = {test.pvalue:.4f}, gamma {gamma.pvalue:.4f}", fontsize=9)
            axis.set_xlabel("HSIC")
            axis.set_yticks([])
            axis.spines[["top", "right"]].set_visible(False)
            axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
            lines.append(
                f"{title}: p = {test.pvalue:.4f} by permutation, {gamma.pvalue:.4f} by gamma"
            )
        axes[0].legend(loc="upper center", fontsize=8)
        path.write_text(svg_of(figure, "Null distributions of two tests of independence"))
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures" / "independence.svg")
    print("\n".join(draw(parser.parse_args().out)))

# SPDX-License-Identifier: Apache-2.0
"""What a comparison of layers found: a matrix, its names, and its picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from bido_ext._counted import counted

if TYPE_CHECKING:  # matplotlib is needed for the picture alone
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Beyond so many layers some names are left out of the picture.
MOST_NAMES = 48


@dataclass(frozen=True)
class SimilarityMatrix:
    """The similarity of all layers of a model with all layers of another one, or of itself.

    Attributes:
        matrix: (layers, other layers), float64, on the CPU. CKA lies in [-1, 1] with the unbiased estimator,
            else in [0, 1]. It is NaN for a layer that gave the same output for all samples.
        layers: Names of the rows.
        other_layers: Names of the columns.
        measure: "cka" or "hsic".
        estimator: "unbiased" or "biased".
        batches: Mini-batches averaged over, of all ranks.
        samples: Samples in them.
    """

    matrix: Tensor
    layers: tuple[str, ...]
    other_layers: tuple[str, ...]
    measure: str
    estimator: str
    batches: int
    samples: int

    def __repr__(self) -> str:
        """The sizes alone; ``matrix`` has the numbers."""
        return (
            f"SimilarityMatrix({self.measure}, {self.estimator}, {len(self.layers)} x "
            f"{len(self.other_layers)} layers, {counted(self.samples, 'sample')} in "
            f"{counted(self.batches, 'mini-batch', 'mini-batches')})"
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers and words, for JSON; NaN becomes None."""
        return {
            "measure": self.measure,
            "estimator": self.estimator,
            "batches": self.batches,
            "samples": self.samples,
            "layers": list(self.layers),
            "other_layers": list(self.other_layers),
            "matrix": [[v if v == v else None for v in row] for row in self.matrix.tolist()],
        }

    def plot(
        self,
        ax: Axes | None = None,
        *,
        title: str | None = None,
        model: str = "layers",
        other: str = "other layers",
        theme: str = "light",
    ) -> Figure:
        """Draws the matrix as a heat map; rows go from bottom to top, both from input to output.

        Args:
            ax: Axes to draw into. Default: a new figure, made without pyplot, so that it needs no display.
            title: Text above the map.
            model, other: Names of the axes.
            theme: "light" or "dark", for the ground of a new figure and the text.

        Returns:
            The figure; ``.savefig("similarity.png")`` writes it. Layers without a value are grey.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
            ValueError: theme is something else.
        """
        try:
            from matplotlib import colormaps
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "plot() needs matplotlib; run: pip install matplotlib", name=error.name
            ) from error
        from bido_ext._drawing import look, new_figure

        rows, columns = self.matrix.shape
        with look(theme) as colour:
            if ax is None:
                ax = new_figure(_inches(columns) + 1.6, _inches(rows) + 0.6).add_subplot()
            values = self.matrix.numpy()
            top = 1.0 if self.measure == "cka" else None
            colours = colormaps["magma"].with_extremes(bad=colour("missing"))
            image = ax.imshow(values, origin="lower", cmap=colours, vmin=0.0, vmax=top)
            for axis, names in ((ax.xaxis, self.other_layers), (ax.yaxis, self.layers)):
                step = -(-len(names) // MOST_NAMES)
                axis.set_ticks(range(0, len(names), step), names[::step])
                axis.set_tick_params(labelsize=7 if len(names) > 12 else 8)
            ax.tick_params("x", rotation=90)
            ax.set_xlabel(other)
            ax.set_ylabel(model)
            if title is not None:
                ax.set_title(title)
            found = values[values == values]
            below = "min" if found.size and found.min() < 0 else "neither"
            bar = ax.figure.colorbar(image, ax=ax, extend=below, shrink=0.8)
            bar.set_label(f"{self.measure.upper()} ({self.estimator})")
            bar.outline.set_visible(False)  # type: ignore[operator]
        return ax.figure  # type: ignore[return-value]


def _inches(layers: int) -> float:
    return min(max(0.24 * layers, 3.2), 9.0)

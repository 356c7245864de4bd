# SPDX-License-Identifier: Apache-2.0
"""What ``suggest_weights`` finds: the pull of each measure beside the push of the classification loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from bido_ext._counted import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Shares of the push that lambda_x times its gradient takes, from the weakest rung to the strongest.
SHARES = (0.03, 0.1, 0.3, 1.0, 3.0)
#: Share of lambda_y over that of lambda_x. The terms of nhsic and cka do not depend on the scale of the
#: features: less of y, and x leaves nothing to classify by. Those of coco and hsic do: more of y, and it makes
#: the features grow without end. Tried on digits and faces, docs/weights.md.
Y_PER_X = {"nhsic": 1.5, "cka": 1.5, "coco": 0.25, "hsic": 0.25}
#: Weights of the paper's main results (Peng et al. 2022, tables 2 and 3).
PUBLISHED = {"nhsic": (0.05, 0.5), "coco": (1.0, 50.0)}


class Rung(NamedTuple):
    """One pair of weights.

    Attributes:
        lambda_x, lambda_y: The weights, for ``BiDOLoss``.
        share_x: lambda_x |grad sum_j d(X, Z_j)| divided by the push of the classification loss.
        share_y: lambda_y |grad sum_j d(Z_j, Y)| divided by the push.
    """

    lambda_x: float
    lambda_y: float
    share_x: float
    share_y: float

    @property
    def weights(self) -> dict[str, float]:
        """Arguments of ``BiDOLoss``: ``BiDOLoss("nhsic", **rung.weights)``."""
        return {"lambda_x": self.lambda_x, "lambda_y": self.lambda_y}


@dataclass(frozen=True)
class WeightLadder:
    """The proposed weights for one measure. Numbers are medians over the batches.

    Attributes:
        measure: Its name, as in ``BiDOLoss``.
        terms_x, terms_y: d(X, Z_j) and d(Z_j, Y), by layer name.
        pull_x, pull_y: Norms of the gradients of their sums by the model's parameters, without weights.
        push: Norm of the gradient of the classification loss at outputs of 0.
        rungs: The pairs, from the weakest to the strongest.
        published: The published weights with their shares; None if the paper does not use the measure.
    """

    measure: str
    terms_x: Mapping[str, float]
    terms_y: Mapping[str, float]
    pull_x: float
    pull_y: float
    push: float
    rungs: tuple[Rung, ...]
    published: Rung | None

    @property
    def middle(self) -> Rung:
        """The pair to start from."""
        return self.rungs[len(self.rungs) // 2]


@dataclass(frozen=True)
class WeightSuggestion:
    """The result of :func:`bido_ext.suggest_weights`. Print it to get a table.

    Attributes:
        ladders: dict from measure to ``WeightLadder``. ``suggestion["nhsic"]`` is short for it.
        loss: Median of the classification loss.
        gradient: Median norm of its current gradient, which goes to 0 as the model learns.
        push: Median norm of its gradient at outputs of 0.
        batches, samples: Number of batches and samples that were measured.
    """

    ladders: Mapping[str, WeightLadder]
    loss: float
    gradient: float
    push: float
    batches: int
    samples: int

    def __getitem__(self, measure: str) -> WeightLadder:
        if measure not in self.ladders:
            raise KeyError(f"{measure!r} was not measured; there are {', '.join(self.ladders)}")
        return self.ladders[measure]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        document = {key: value for key, value in vars(self).items() if key != "ladders"}
        ladders = {}
        for measure, ladder in self.ladders.items():
            published = ladder.published
            ladders[measure] = {
                **asdict(ladder),
                "rungs": [rung._asdict() for rung in ladder.rungs],
                "published": None if published is None else published._asdict(),
            }
        return {**document, "ladders": ladders}

    def plot(self, theme: str = "light") -> Figure:
        """Draws the pairs of each measure by the share of lambda_x.

        Args:
            theme: "light" or "dark".

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        from bido_ext._drawing import look, new_figure

        with look(theme) as colour:
            figure = new_figure(9, 1.2 + 0.8 * len(self.ladders))
            axes = figure.add_subplot()
            # A ground of their own: the line of 100 % goes through the numbers of a rung.
            ground = {"facecolor": colour("ground"), "edgecolor": "none", "pad": 1}
            for row, ladder in enumerate(self.ladders.values()):
                shares = [rung.share_x for rung in ladder.rungs]
                axes.plot(shares, [row] * len(shares), "o-", color=colour("natural"))
                axes.plot(ladder.middle.share_x, row, "o", color=colour("natural"), markersize=11)
                for rung in ladder.rungs:
                    for value, above in ((rung.lambda_x, True), (rung.lambda_y, False)):
                        axes.annotate(
                            _short(value), (rung.share_x, row), (0, 9 if above else -9),
                            textcoords="offset points", ha="center",
                            va="bottom" if above else "top", fontsize=8, bbox=ground,
                        )  # fmt: skip
                if ladder.published is not None:
                    axes.plot(
                        ladder.published.share_x, row, "x", color=colour("attack"), markersize=9
                    )
            axes.plot([], [], "o", color=colour("natural"), markersize=11, label="start here")
            axes.plot([], [], "x", color=colour("attack"), markersize=9, label="published")
            axes.axvline(
                1.0, color=colour("quiet"), linestyle="--", label="push of the classification loss",
                zorder=0,
            )  # fmt: skip
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
            axes.margins(x=0.08)
            axes.set_yticks(range(len(self.ladders)), list(self.ladders))
            axes.set_ylim(len(self.ladders) - 0.5, -0.6)
            axes.set_xlabel("share of lambda_x; above each point lambda_x, below lambda_y")
            axes.spines[["top", "right"]].set_visible(False)
            figure.legend(loc="outside lower center", ncols=3)
        return figure

    def __str__(self) -> str:
        lines = [
            f"classification loss {self.loss:.3g}, its gradient {self.gradient:.3g}, "
            f"its push {self.push:.3g} (medians of {counted(self.batches, 'batch', 'batches')})",
            "",
            f"{'measure':<10}{'lambda_x':>12}{'lambda_y':>12}{'share of x':>12}{'share of y':>12}",
        ]
        for measure, ladder in self.ladders.items():
            rows = [("", rung) for rung in ladder.rungs]
            rows[len(rows) // 2] = ("  start here", ladder.middle)
            if ladder.published is not None:
                rows.append(("  published", ladder.published))
            for note, rung in rows:
                lines.append(
                    f"{measure:<10}{rung.lambda_x:>12.3g}{rung.lambda_y:>12.3g}"
                    f"{_percent(rung.share_x):>12}{_percent(rung.share_y):>12}{note}"
                )
        return "\n".join(lines)


def make_ladder(
    measure: str,
    terms_x: Mapping[str, float],
    terms_y: Mapping[str, float],
    pulls: tuple[float, float],
    push: float,
    shares: tuple[float, ...],
    y_per_x: float,
) -> WeightLadder:
    """The rungs whose x terms take ``shares`` of the push, and whose y terms ``y_per_x`` times that."""
    pull_x, pull_y = pulls

    def rung(lambda_x: float, lambda_y: float) -> Rung:
        return Rung(lambda_x, lambda_y, lambda_x * pull_x / push, lambda_y * pull_y / push)

    rungs = tuple(
        rung(_two_digits(share * push / pull_x), _two_digits(share * y_per_x * push / pull_y))
        for share in shares
    )
    known = PUBLISHED.get(measure)
    return WeightLadder(
        measure, terms_x, terms_y, pull_x, pull_y, push, rungs, rung(*known) if known else None
    )


def _two_digits(value: float) -> float:
    """Weights that a person can copy; the shares are those of what is printed."""
    return float(f"{value:.1e}")


def _short(value: float) -> str:
    return f"{value:.2g}".replace("e+0", "e")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"

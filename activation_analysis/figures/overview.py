"""One contrast in a strip: where units respond, how strongly, and what words alone tell."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from activation_analysis.figures.style import QUIET, SECOND, figure, layer_axis, line_of

PANELS = {
    "prop_significant": "share of units significant",
    "held_out_d": "held-out effect of the top 1 %",
}


@figure
def overview(layers: pd.DataFrame, *, accuracy: float, chance: float) -> Figure:
    """Profiles over layers of every site beside the accuracy of the bag-of-words decoder.

    Parameters
    ----------
    layers : rows of `ContrastResult.layer_table`: site, layer, prop_significant, held_out_d
    accuracy, chance : of the surface baseline; NaN where there is none
    """
    fig = Figure(figsize=(9.6, 2.35), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots(1, 3, width_ratios=[4, 4, 1])
    for ax, (column, title) in zip(axes, PANELS.items(), strict=False):
        _draw_profiles(ax, layers, column)
        ax.set_title(title)
    axes[0].set_ylim(-0.02, 1.02)
    axes[0].set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    axes[1].axhline(0, color=QUIET, linewidth=0.8)
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    _draw_accuracy(axes[2], accuracy, chance)
    return fig


def _draw_profiles(ax: Axes, layers: pd.DataFrame, column: str) -> None:
    for site, rows in layers.groupby("site", sort=False):
        line = line_of(site)
        ax.plot(rows["layer"], rows[column], color=line.color, ls=line.style, label=site)
    layer_axis(ax, int(layers["layer"].max()) + 1)
    ax.set_xlabel("layer")


def _draw_accuracy(ax: Axes, accuracy: float, chance: float) -> None:
    ax.bar(0, accuracy, width=0.6, color=SECOND)
    ax.axhline(chance, color=QUIET, linestyle="--", linewidth=1)
    label = {"ha": "center", "va": "bottom", "fontsize": 8.5, "color": "white"}
    ax.text(0, 0.02, f"{100 * accuracy:.0f} %" if accuracy == accuracy else "", **label)
    ax.set_xlim(-0.5, 0.5)
    ax.set_ylim(0, 1)
    ax.set_xticks([])
    ax.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    ax.set_title("words alone")

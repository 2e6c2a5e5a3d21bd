"""How much of the strongest units' effect is left on prompts that did not choose them?"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from activation_analysis.figures.style import (
    QUIET,
    figure,
    layer_axis,
    line_of,
    new_figure,
    note,
)
from activation_analysis.figures.text import plain
from activation_analysis.results import ContrastResult, LayerProfile

N_COLUMNS = 3
SELECTED = (0, (4, 2))  # dashes


@figure
def held_out(result: ContrastResult) -> Figure:
    """The top 1 % of units of every layer: dashed on the prompts that chose them, solid on the
    others. The shaded gap is the winner's curse; believe the solid line.
    """
    profiles = tuple(result.profiles.values())
    n_columns = min(len(profiles), N_COLUMNS)
    n_rows = -(-len(profiles) // n_columns)
    fig = new_figure(
        result,
        "Held-out effect of the top 1 % of units",
        width=10,
        height=3.6 if n_rows == 1 else 2.6 * n_rows,
        caption="Dashed: effect on the prompts that chose the units (too high by construction). "
        "Solid: effect of the same units on the other prompts.",
    )
    axes = fig.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    for ax, profile in zip(axes.flat, profiles, strict=False):
        _draw_site(ax, profile)
    _set_limits(axes.flat[0], profiles)
    for ax in axes[:, 0]:
        ax.set_ylabel(result.effect_name)
    for ax in axes[-1]:
        ax.set_xlabel("layer")
    for ax in axes.flat[len(profiles) :]:
        ax.set_visible(False)
    _add_legend(axes.flat[0])
    return fig


def _draw_site(ax: Axes, profile: LayerProfile) -> None:
    color = line_of(profile.site).color
    layer, chosen, measured = profile.layer, profile.selected_d, profile.held_out_d
    marker = {"marker": line_of(profile.site).marker, "ms": 3.5 if len(layer) <= 40 else 2.2}
    ax.axhline(0, color="#999999", lw=0.8, zorder=1)
    ax.fill_between(layer, measured, chosen, color=color, alpha=0.12, lw=0)
    alone = {"marker": "_", "ms": 8} if len(layer) == 1 else {}  # one layer draws no line
    ax.plot(layer, chosen, color=color, ls=SELECTED, lw=1.1, **alone)
    ax.plot(layer, measured, color=color, **marker)
    ax.set_title(plain(profile.site, 24))
    layer_axis(ax, profile.n_layers)
    ax.tick_params(labelbottom=True)
    if np.all(np.isnan(measured)):
        note(ax, "nothing held out")


def _set_limits(ax: Axes, profiles: tuple[LayerProfile, ...]) -> None:
    values = np.concatenate([[0.0, 0.5], *((p.selected_d, p.held_out_d) for p in profiles)], None)
    values = values[np.isfinite(values)]
    room = np.ptp(values)
    ax.set_ylim(values.min() - 0.08 * room, values.max() + 0.25 * room)  # the legend's place


def _add_legend(ax: Axes) -> None:
    """Once, in the room above the first panel's data, in no site's colour."""
    handles = [
        Line2D([], [], color=QUIET, ls=SELECTED, lw=1.1, label="selection prompts"),
        Line2D([], [], color=QUIET, label="held-out prompts"),
    ]
    ax.legend(
        handles=handles,
        loc="upper left",
        ncols=2,
        fontsize=7.5,
        handlelength=2,
        columnspacing=1,
        frameon=True,
        edgecolor="none",
        framealpha=1,
    )

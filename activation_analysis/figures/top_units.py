"""Which single units tell the conditions apart, and do they on prompts that did not choose them?"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch

from activation_analysis.figures.style import (
    FIRST,
    FIRST_LIGHT,
    QUIET,
    SECOND,
    SECOND_LIGHT,
    figure,
    new_figure,
    note,
    p_label,
)
from activation_analysis.figures.text import plain
from activation_analysis.results import ContrastResult, TopUnits

NEGATIVE_HATCH = "////"
ROW = 0.24  # inches
FEWEST_ROWS = 3  # room for fewer units than that


@figure
def top_units(result: ContrastResult) -> Figure:
    """Cohen's d of the most discriminative units, strongest first.

    Light bar: all prompts, the units' own selection included. Dark bar: held-out prompts, with
    their confidence interval. To the right (red, plain) the first condition is higher; to the
    left (blue, hatched) the second is.
    """
    top = result.top_units
    fig = new_figure(
        result,
        "Top discriminative units",
        width=10,
        height=1.0 + ROW * max(len(top), FEWEST_ROWS),
        caption=_caption(top),
    )
    ax = fig.subplots()
    if len(top) == 0:
        note(ax, "no unit was tested")
        ax.set_axis_off()
        return fig
    rows = np.arange(len(top))
    _draw_bars(ax, result, rows)
    _draw_p_values(ax, result, rows)
    _dress(ax, result, rows)
    return fig


def _caption(top: TopUnits) -> str:
    if len(top) == 0:
        return ""
    if top.units["held_out_d"].isna().all():
        return "Nothing was held out: an effect that chose its own unit is too high."
    return (
        f"Units were chosen, and are ordered, by size of effect on "
        f"{' + '.join(map(str, top.n_selection))} prompts and measured on "
        f"{' + '.join(map(str, top.n_held_out))} others (held out)."
    )


def _draw_bars(ax: Axes, result: ContrastResult, rows: np.ndarray) -> None:
    units = result.top_units.units
    d = _finite(units["effect_size"].to_numpy(float))
    held_out = units["held_out_d"].to_numpy(float)
    low, high = units["held_out_low"].to_numpy(float), units["held_out_high"].to_numpy(float)
    measured = np.isfinite(held_out)
    bars = ax.barh(rows, d, height=0.78, color=_by_sign(d, FIRST_LIGHT, SECOND_LIGHT))
    for bar, value in zip(bars, d, strict=True):
        bar.set_edgecolor("white")
        bar.set_linewidth(0)
        if value < 0:
            bar.set_hatch(NEGATIVE_HATCH)
    ax.barh(
        rows[measured],
        held_out[measured],
        height=0.34,
        color=_by_sign(held_out[measured], FIRST, SECOND),
    )
    reach = np.clip([held_out - low, high - held_out], 0, None)
    known = measured & np.isfinite(reach).all(axis=0)
    ax.errorbar(
        held_out[known],
        rows[known],
        xerr=reach[:, known],
        fmt="none",
        ecolor="black",
        elinewidth=1.0,
        capsize=2.5,
    )


def _finite(d: np.ndarray) -> np.ndarray:
    """Infinite effects end with the longest finite one; their labels say what they are."""
    longest = np.abs(d[np.isfinite(d)]).max(initial=1.0)
    return np.clip(d, -longest, longest)


def _by_sign(d: np.ndarray, positive: str, negative: str) -> list[str]:
    return [negative if value < 0 else positive for value in d]


def _draw_p_values(ax: Axes, result: ContrastResult, rows: np.ndarray) -> None:
    units = result.top_units.units
    p = units["p_value" if result.first_map.control is None else "p_adjusted"].to_numpy(float)
    margin = ax.secondary_yaxis("right")
    margin.set_yticks(rows, [_p_text(value) for value in p])
    margin.tick_params(length=0, labelsize=7.5)
    margin.spines["right"].set_visible(False)
    for label, value in zip(margin.get_yticklabels(), p, strict=True):
        label.set_color("black" if value <= result.first_map.alpha else QUIET)
    ax.annotate(
        p_label(result.first_map),
        (1, 1),
        xycoords="axes fraction",
        xytext=(4, 5),
        textcoords="offset points",
        size=8,
        color=QUIET,
    )


def _p_text(p: float) -> str:
    if np.isnan(p):
        return "–"
    return f"{p:.1e}" if p < 1e-3 else f"{p:.3f}"


def _effect_axis(result: ContrastResult) -> str:
    if result.is_omnibus:
        return "2f   (the |d| of two equal groups that differ as much; no direction)"
    first, second = (plain(name, 24) for name in result.conditions)
    return f"Cohen's d   (negative: {second} higher   |   positive: {first} higher)"


def _dress(ax: Axes, result: ContrastResult, rows: np.ndarray) -> None:
    units = result.top_units.units
    addresses = zip(
        units["site"], units["layer"], units["index"], units["effect_size"], strict=True
    )
    labels = [
        f"{plain(site, 16)} L{layer} #{index}" + (" (d infinite)" if np.isinf(d) else "")
        for site, layer, index, d in addresses
    ]
    ax.set_yticks(rows, labels)
    ax.set_ylim(max(len(rows), FEWEST_ROWS) - 0.4, -0.6)
    ax.axvline(0, color="#333333", lw=0.9)
    ax.grid(axis="x")
    ax.set_axisbelow(True)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(_effect_axis(result))
    confidence = f"{100 * result.top_units.confidence:g} %"
    light = (
        Patch(facecolor=FIRST_LIGHT),
        Patch(facecolor=SECOND_LIGHT, edgecolor="white", lw=0, hatch=NEGATIVE_HATCH),
    )
    dark = (Patch(facecolor=FIRST), Patch(facecolor=SECOND))
    labels = {"all prompts": light}
    if units["held_out_d"].notna().any():
        labels[f"held out, with its {confidence} interval"] = dark
    ax.legend(
        list(labels.values()),
        list(labels),
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.3)},
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=2,
        borderaxespad=0.3,
        columnspacing=1.4,
        handlelength=3.4,
    )

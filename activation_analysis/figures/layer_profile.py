"""Where in the model do the conditions differ, how strongly and how widely?"""

from __future__ import annotations

from math import exp, lgamma, pi, sqrt

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from activation_analysis.figures.style import (
    QUIET,
    figure,
    layer_axis,
    line_of,
    new_figure,
    note,
    p_label,
)
from activation_analysis.figures.text import plain
from activation_analysis.results import ContrastResult, LayerProfile

INDEPENDENT_TESTS = ("ttest", "student", "welch", "mannwhitney", "brunnermunzel", "permutation")
REFERENCE = {"color": "#999999", "lw": 1.0, "ls": (0, (2, 2)), "zorder": 1}


@figure
def layer_profile(result: ContrastResult) -> Figure:
    """Effect size (top) and proportion of significant units (bottom) of every layer.

    One line per site, with a ring at its peak layer. A thin dotted line is the median abs(d),
    drawn for one or two sites. The grey line of the upper panel is what abs(d) averages when
    nothing differs; that of the lower panel is alpha, drawn where no control is applied (under
    a control, chance is at or below it and usually 0).
    """
    profiles = tuple(result.profiles.values())
    n_layers = max(profile.n_layers for profile in profiles)
    fig = new_figure(result, "Layer profile", width=10, height=5.6)
    top, bottom = fig.subplots(2, 1, sharex=True)
    for profile in profiles:
        _draw_effect(top, profile, with_median=len(profiles) <= 2)
        _draw_proportion(bottom, profile)
    chance = _mark_chance(top, result)
    alpha = _mark_alpha(bottom, result)

    layer_axis(top, n_layers)
    layer_axis(bottom, n_layers)
    size = result.effect_name if result.is_omnibus else f"|{result.effect_name}|"
    top.set_ylabel(f"effect size: mean {size}")
    bottom.set_ylabel(f"proportion significant\n({p_label(result.first_map)} ≤ α)")
    bottom.set_xlabel("layer")
    _set_top_of(top, [p.mean_abs_d for p in profiles], at_least=max(0.2, chance))
    _set_top_of(bottom, [p.prop_significant for p in profiles], at_least=max(0.01, alpha))
    if n_layers > 1:
        _depth_axis(top, n_layers)
    if all(np.all(np.isnan(p.mean_abs_d)) for p in profiles):
        note(top, "no unit was tested")
    elif sum(int(p.n_significant.sum()) for p in profiles) == 0:
        note(bottom, "no unit is significant")
    top.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), handlelength=3.2, labelspacing=0.7)
    return fig


def _draw_effect(ax: Axes, profile: LayerProfile, *, with_median: bool) -> None:
    line = line_of(profile.site)
    peak = profile.peak_layer
    site = plain(profile.site, 24)
    ax.plot(
        profile.layer,
        profile.mean_abs_d,
        color=line.color,
        ls=line.style,
        marker=line.marker,
        ms=_marker_size(profile.n_layers),
        label=site if peak < 0 else f"{site} (peak: layer {peak})",
    )
    if with_median:
        ax.plot(
            profile.layer,
            profile.median_abs_d,
            color=line.color,
            lw=0.8,
            ls=":",
            marker="_",
            ms=4,
            label=f"{site}, median",
        )
    if peak >= 0:
        height = profile.mean_abs_d[profile.layer == peak]
        ax.plot([peak], height, "o", ms=12, mfc="none", mec=line.color, mew=1.4)


def _draw_proportion(ax: Axes, profile: LayerProfile) -> None:
    line = line_of(profile.site)
    ax.plot(
        profile.layer,
        profile.prop_significant,
        color=line.color,
        ls=line.style,
        marker=line.marker,
        ms=_marker_size(profile.n_layers),
        clip_on=False,
    )


def _marker_size(n_layers: int) -> float:
    return 4.5 if n_layers <= 40 else 3.0


def _mark_chance(ax: Axes, result: ContrastResult) -> float:
    """Draw and return what mean abs(d) is by chance; 0 where that is not known."""
    if len(result.n) != 2 or result.first_map.test not in INDEPENDENT_TESTS or sum(result.n) < 4:
        return 0.0
    expected = expected_abs_d(*result.n)
    ax.axhline(expected, label=f"mean if nothing differs ({expected:.2f})", **REFERENCE)
    return expected


def _mark_alpha(ax: Axes, result: ContrastResult) -> float:
    """Draw and return the proportion significant by chance; 0 under a control."""
    if result.first_map.control is not None:
        return 0.0
    alpha = result.first_map.alpha
    ax.axhline(alpha, **REFERENCE)
    ax.annotate(
        f"chance: α = {alpha:g}",
        (1.0, alpha),
        xycoords=("axes fraction", "data"),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        size=8,
        color=QUIET,
    )
    return alpha


def expected_abs_d(n_1: int, n_2: int) -> float:
    """The average abs(d) of two independent groups drawn from one normal population.

        E|d| = E|t| sqrt(1/n_1 + 1/n_2),   t with n_1 + n_2 - 2 degrees of freedom

    Small groups look different by chance; this says by how much.
    """
    df = n_1 + n_2 - 2
    mean_abs_t = 2 * sqrt(df / pi) / (df - 1) * exp(lgamma((df + 1) / 2) - lgamma(df / 2))
    return mean_abs_t * sqrt(1 / n_1 + 1 / n_2)


def _set_top_of(ax: Axes, series: list[np.ndarray], *, at_least: float) -> None:
    values = np.concatenate(series)
    ax.set_ylim(0, 1.1 * values[np.isfinite(values)].max(initial=at_least))


def _depth_axis(ax: Axes, n_layers: int) -> None:
    last = n_layers - 1
    depth = ax.secondary_xaxis("top", functions=(lambda x: x / last, lambda d: d * last))
    depth.set_xticks([0, 0.25, 0.5, 0.75, 1])
    depth.set_xlabel("relative depth", size=8, color=QUIET)
    depth.spines["top"].set_visible(False)
    depth.tick_params(length=3, labelcolor=QUIET, labelsize=7.5)

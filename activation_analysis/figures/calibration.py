"""Are p-values uniform where nothing differs, and does every layer keep to alpha?"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from activation_analysis.figures.style import (
    figure,
    layer_axis,
    line_of,
    page,
    source_line,
)
from activation_analysis.figures.text import plain
from activation_analysis.results.calibration import FLAGGED, CalibratedContrast, NullRates

# Okabe and Ito's, none of them a site's or a condition's.
COLORS = {"relabelled": "#7f7f7f", "halves": "#0072B2", "flipped": "#D55E00"}
EXPECTED = {"color": "#999999", "lw": 1.0, "ls": (0, (2, 2)), "zorder": 1}
BAND = {"color": "#dddddd", "lw": 0, "zorder": 0}
SMALLEST = 1e-4  # of the Q-Q plot


@figure
def p_values(of: CalibratedContrast) -> Figure:
    """Histogram (left) and Q-Q plot (right) of p-values where nothing differs.

    Each null in its colour. The dashed line is the uniform distribution; the grey band is how far
    chance alone takes the null with the widest spread in 95 % of calibrations. Points above the
    line of the Q-Q plot are p-values too small: false positives.
    """
    fig = _page(
        of,
        "p-values where nothing differs",
        height=3.9,
        caption="Dashed: uniform, as p-values should be. Grey: 95 % of calibrations of uniform "
        "p-values. Above the line on the right: too many small p-values.",
    )
    left, right = fig.subplots(1, 2)
    nulls = of.calibration.nulls
    for null in nulls:
        _draw_histogram(left, null)
        _draw_quantiles(right, null)
    _draw_band(right, nulls)
    left.axhline(1, **EXPECTED)
    left.set_xlim(0, 1)
    left.set_ylim(0, 1.15 * max(1.5, *(null.p_values.density.max() for null in nulls)))
    left.set_xlabel("p-value")
    left.set_ylabel("density")
    reach = -np.log10(SMALLEST)
    right.plot([0, reach], [0, reach], **EXPECTED)
    right.set_xlim(0, reach)
    right.set_ylim(0, reach)
    right.set_xlabel("expected −log10(p)")
    right.set_ylabel("observed −log10(p)")
    for ax in (left, right):
        ax.grid(axis="y")
        ax.set_axisbelow(True)
    left.legend(loc="upper right")
    return fig


@figure
def rate_by_layer(of: CalibratedContrast) -> Figure:
    """The share of units with p <= alpha where nothing differs, layer by layer: one panel a null.

    One line per site; the dashed line is alpha, where every line should lie.
    """
    nulls = of.calibration.nulls
    fig = _page(
        of,
        "False-positive rate by layer",
        height=3.4,
        caption="Share of units with p ≤ α (no correction) where nothing differs. Dashed: α.",
    )
    axes = fig.subplots(1, len(nulls), sharey=True, squeeze=False)[0]
    highest = of.calibration.alpha
    for ax, null in zip(axes, nulls, strict=True):
        for site, own in of.calibration.cells.groupby("site", sort=False):
            rate, line = null.by_layer[own.index], line_of(site)
            size = 3.5 if len(own) <= 40 else 2.2
            ax.plot(
                own["layer"],
                rate,
                color=line.color,
                marker=line.marker,
                ls=line.style,
                ms=size,
                label=plain(site, 24),
            )
            highest = max(highest, np.nanmax(rate, initial=0.0))
        ax.axhline(of.calibration.alpha, **EXPECTED)
        ax.set_title(f"{null.null}: {null.fpr.value:.3f}, {null.verdict}")
        ax.set_xlabel("layer")
        layer_axis(ax, of.n_layers)
    axes[0].set_ylim(0, 1.2 * highest)
    axes[0].set_ylabel("false-positive rate")
    axes[-1].legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), handlelength=3.2)
    return fig


CALIBRATION_FIGURES = {"calibration_p_values": p_values, "calibration_layers": rate_by_layer}


def _page(of: CalibratedContrast, heading: str, *, height: float, caption: str) -> Figure:
    c = of.calibration
    verdict = "FLAGGED" if c.verdict == FLAGGED else c.verdict
    n = ", ".join(f"{n} {plain(k, 22)}" for n, k in zip(of.n, of.conditions, strict=False))
    design = (
        f"n = {n}  ·  test {plain(c.test, 20)}  ·  control {plain(c.control, 20)}  ·  "
        f"α = {c.alpha:g}  ·  {c.n_units:,} of {c.n_all_units:,} units"
    )
    title = f"{heading} ({verdict}): {plain(of.contrast, 80)}"
    return page(title, source_line(of), design, width=10, height=height, caption=caption)


def _draw_histogram(ax: Axes, null: NullRates) -> None:
    ax.stairs(
        null.p_values.density,
        np.linspace(0, 1, len(null.p_values.density) + 1),
        color=COLORS[null.null],
        lw=1.6,
        label=f"{null.null} ({null.repetitions})",
    )


def _draw_quantiles(ax: Axes, null: NullRates) -> None:
    level, share = null.p_values.level, null.p_values.share
    inside = (level >= SMALLEST) & (level < 1) & (share > 0)
    ax.plot(
        -np.log10(share[inside]),
        -np.log10(level[inside]),
        color=COLORS[null.null],
        marker="o",
        ms=2.6,
        lw=0.9,
    )


def _draw_band(ax: Axes, nulls: tuple[NullRates, ...]) -> None:
    """Of the null that chance scatters most."""
    widest = max((null.p_values for null in nulls), key=lambda p: float((p.high - p.low).max()))
    inside = (widest.level >= SMALLEST) & (widest.level < 1)
    low, high = (np.maximum(edge[inside], SMALLEST / 100) for edge in (widest.low, widest.high))
    ax.fill_betweenx(-np.log10(widest.level[inside]), -np.log10(high), -np.log10(low), **BAND)

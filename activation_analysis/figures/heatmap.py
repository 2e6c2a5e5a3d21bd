"""The contrast map of one site: layer by unit, as a slice through a brain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from activation_analysis.activations import Units
from activation_analysis.figures.style import EXCLUDED, figure, new_figure, p_label
from activation_analysis.figures.text import fit, plain
from activation_analysis.results import ContrastResult, StatMap

MAX_COLUMNS = 800  # the narrowest panel has that many pixels at 90 dpi
MEAN_PERCENTILE = 99.5  # a few coordinates of a residual stream are thousands of times the rest
MAGNITUDE_PERCENTILE = 99.9
LARGE_D = 0.8  # Cohen's "large": nothing smaller is yellow
SMALL_P = 1e-3  # the p scale reaches at least this far
NOT_A_UNIT = "white"
TITLE_ROOM = 9.4  # inches above a panel and its colour bar


@dataclass(frozen=True)
class Panel:
    """One quantity of the map and how it is coloured."""

    title: str
    values: np.ndarray  # (n_units,)
    norm: Normalize
    cmap: Colormap
    label: str
    extend: str = "neither"
    ticks: tuple[float, ...] | None = None
    tick_labels: tuple[str, ...] | None = None
    mark: float | None = None  # a line across the colour bar


@figure
def heatmap(result: ContrastResult, site: str) -> Figure:
    """Mean difference, abs(d), -log10 p and the significant mask of one site, layer by unit.

    Red where the first condition is higher, blue where the second is. Grey units were excluded.
    Where units outnumber the columns that can be seen, each column shows the unit with the
    largest magnitude among its neighbours, so that no isolated unit is lost.

    Raises
    ------
    ValueError
        If the map has no units' addresses, so that there is nothing to lay out.
    """
    stat_map = result.maps[site]
    if stat_map.units is None:
        raise ValueError(f"the map of site {site!r} has no layer and unit addresses to lay out")
    layers = stat_map.units.layers
    height = float(np.clip(0.028 * len(layers), 1.25, 2.6))
    fig = new_figure(
        result,
        f"Activation map, {plain(site, 24)}",
        width=11,
        height=4 * (height + 0.42),
        caption=_caption(stat_map),
    )
    axes = fig.subplots(4, 1, sharex=True, sharey=True)
    n_binned = -(-(int(stat_map.units.index.max()) + 1) // MAX_COLUMNS)
    for ax, panel in zip(axes, _panels(stat_map, result), strict=True):
        _draw_panel(ax, panel, stat_map, n_binned)
    axes[-1].set_xlabel(
        "unit index"
        if n_binned == 1
        else f"unit index (each column: the largest magnitude of {n_binned} neighbouring units)"
    )
    rows = [int(r) for r in MaxNLocator(8, integer=True).tick_values(0, max(len(layers) - 1, 1))]
    rows = [row for row in rows if 0 <= row < len(layers)]
    axes[0].set_yticks(rows, [str(layers[row]) for row in rows])
    return fig


def _caption(stat_map: StatMap) -> str:
    n_excluded = int((~stat_map.tested).sum())
    remarks = []
    if n_excluded:
        remarks.append(f"Grey: excluded, not tested ({n_excluded:,} units).")
    if len(stat_map) < len(stat_map.units.layers) * (int(stat_map.units.index.max()) + 1):
        remarks.append("White: the layer has no such unit.")
    return " ".join(remarks)


def _panels(stat_map: StatMap, result: ContrastResult) -> tuple[Panel, ...]:
    abs_d = np.abs(stat_map.effect_size)
    log_p = -np.log10(np.maximum(stat_map.p_value, np.finfo(float).tiny))
    significant = np.where(stat_map.tested, stat_map.significant, np.nan)
    threshold = log_p[stat_map.significant].min(initial=np.inf)
    n_significant, n_tested = int(stat_map.significant.sum()), int(stat_map.tested.sum())
    top_of_p = max(-np.log10(SMALL_P), _percentile(log_p, MAGNITUDE_PERCENTILE))
    in_range = threshold <= top_of_p
    return (
        _first_panel(stat_map, result),
        Panel(
            "Effect size  (yellow: large)",
            abs_d,
            Normalize(0, max(LARGE_D, _percentile(abs_d, MAGNITUDE_PERCENTILE))),
            colormaps["viridis"],
            result.effect_name if result.is_omnibus else "|Cohen's d|",
            extend="max",
        ),
        Panel(
            "Uncorrected p  (brighter: more significant"
            + ("; line on the colour bar: weakest significant unit)" if in_range else ")"),
            log_p,
            Normalize(0, top_of_p),
            colormaps["inferno"],
            "−log10 p",
            extend="max",
            mark=threshold if in_range else None,
        ),
        Panel(
            f"Significant mask  ({p_label(stat_map)} ≤ {stat_map.alpha:g}: "
            f"{n_significant:,} of {n_tested:,} tested units)",
            significant,
            BoundaryNorm([-0.5, 0.5, 1.5], 2),
            ListedColormap(["#f7f4ec", "#1a1a1a"]),
            "significant",
            ticks=(0, 1),
            tick_labels=("no", "yes"),
        ),
    )


def _first_panel(stat_map: StatMap, result: ContrastResult) -> Panel:
    """The mean difference; the statistic, where a contrast has no direction."""
    if result.is_omnibus:
        top = _percentile(stat_map.statistic, MAGNITUDE_PERCENTILE) or 1.0
        name = "H" if stat_map.test == "kruskal" else "F"
        return Panel(
            f"{name} statistic  (any difference among {len(result.n)} conditions; colour ends at "
            f"the {MAGNITUDE_PERCENTILE}th percentile)",
            stat_map.statistic,
            Normalize(0, top),
            colormaps["cividis"],
            name,
            extend="max",
        )
    first, second = (plain(name, 20) for name in result.conditions)
    limit = _percentile(np.abs(stat_map.mean_difference), MEAN_PERCENTILE) or 1.0
    return Panel(
        f"Mean difference  (red: {first} higher; blue: {second} higher; "
        f"colour ends at the {MEAN_PERCENTILE}th percentile of magnitude)",
        stat_map.mean_difference,
        Normalize(-limit, limit),
        colormaps["RdBu_r"],
        "activation units",
        extend="both",
    )


def _draw_panel(ax: Axes, panel: Panel, stat_map: StatMap, n_binned: int) -> None:
    values = bin_columns(on_grid(panel.values, stat_map.units), n_binned)
    is_unit = bin_columns(on_grid(np.ones(len(stat_map)), stat_map.units), n_binned) == 1
    rgba = panel.cmap(panel.norm(np.nan_to_num(np.clip(values, panel.norm.vmin, panel.norm.vmax))))
    rgba[np.isnan(values)] = to_rgba(EXCLUDED)
    rgba[~is_unit] = to_rgba(NOT_A_UNIT)
    n_rows, n_columns = values.shape
    ax.imshow(
        rgba,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        extent=(-0.5, n_columns * n_binned - 0.5, -0.5, n_rows - 0.5),
    )
    ax.set_xlim(-0.5, stat_map.units.index.max() + 0.5)
    fig = ax.figure
    fit(ax.set_title(panel.title), TITLE_ROOM * fig.dpi, fig.canvas.get_renderer())
    ax.set_ylabel("layer")
    bar = fig.colorbar(
        ScalarMappable(panel.norm, panel.cmap),
        ax=ax,
        label=panel.label,
        extend=panel.extend,
        ticks=panel.ticks or MaxNLocator(5),
        aspect=12,
        pad=0.012,
        fraction=0.03,
    )
    bar.outline.set_linewidth(0.5)
    if panel.tick_labels:
        bar.set_ticklabels(panel.tick_labels)
    if panel.mark is not None:
        bar.ax.axhline(panel.mark, color="#00e5ff", lw=1.8)


def on_grid(values: np.ndarray, units: Units) -> np.ndarray:
    """Values laid out as (n_recorded_layers, width), NaN where a layer has no such unit."""
    grid = np.full((len(units.layers), int(units.index.max()) + 1), np.nan)
    grid[np.searchsorted(units.layers, units.layer), units.index] = values
    return grid


def bin_columns(grid: np.ndarray, n_binned: int) -> np.ndarray:
    """The value of largest magnitude, sign kept, of every ``n_binned`` neighbours in a row.

    NaN only where all of them are.
    """
    if n_binned == 1:
        return grid
    n_rows, width = grid.shape
    n_columns = -(-width // n_binned)
    padded = np.full((n_rows, n_columns * n_binned), np.nan)
    padded[:, :width] = grid
    padded = padded.reshape(n_rows, n_columns, n_binned)
    magnitude = np.where(np.isnan(padded), -1.0, np.abs(padded))
    largest = magnitude.argmax(axis=2)[..., None]
    return np.take_along_axis(padded, largest, axis=2)[..., 0]


def _percentile(values: np.ndarray, percent: float) -> float:
    finite = values[np.isfinite(values)]
    return float(np.percentile(finite, percent)) if finite.size else 0.0

"""How every figure looks: one style, one palette, one header; no global state is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from activation_analysis.figures.text import fit, font_families, plain
from activation_analysis.results import ContrastResult, StatMap

P = ParamSpec("P")

STYLE = {
    "text.parse_math": False,  # condition names may hold "$x_{$"
    "text.usetex": False,
    "axes.unicode_minus": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.8,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titlepad": 5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}

# RdBu_r's own colours: red is the first condition, blue the second, in every figure.
FIRST, FIRST_LIGHT = "#b2182b", "#f4a582"
SECOND, SECOND_LIGHT = "#2166ac", "#92c5de"
EXCLUDED = "#a0a0a0"
QUIET = "#666666"


@dataclass(frozen=True)
class Line:
    """How a site is drawn: Okabe and Ito's colours, less the red and blue of the conditions."""

    color: str
    marker: str
    style: str | tuple


SITE_LINES = {
    "residual": Line("#000000", "o", "-"),
    "attention": Line("#E69F00", "s", (0, (5, 1.5))),
    "mlp": Line("#009E73", "^", (0, (3, 1, 1, 1))),
    "neuron": Line("#CC79A7", "D", (0, (1, 1))),
    "head": Line("#56B4E9", "v", (0, (6, 1, 1, 1, 1, 1))),
}
OTHER_LINE = Line("#888888", "x", "-")


def line_of(site: str) -> Line:
    return SITE_LINES.get(site, OTHER_LINE)


@contextmanager
def house_style() -> Iterator[None]:
    """The style above on matplotlib's defaults, whatever the user's matplotlibrc says.

    Matplotlib's settings belong to the process: not for several threads at once.
    """
    style = STYLE | {"font.family": list(font_families())}
    with matplotlib.style.context(style, after_reset=True):
        yield


def figure(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Mark a function that draws one figure; it runs in the house style."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with house_style():
            return draw(*args, **kwargs)

    return drawn


HEADER = 0.86  # inches above the panels
MARGIN = 0.12  # inches
HINTING = 0.94  # a line is up to 5 % wider at another dpi
CAPTION = 0.26  # inches below the panels, where there is a caption


def new_figure(
    result: ContrastResult, heading: str, *, width: float, height: float, caption: str = ""
) -> Figure:
    """A figure with its header (and caption) in place and the room between left to the panels."""
    return page(
        f"{heading}: {plain(result.contrast, 110)}",
        source_line(result),
        _design_line(result),
        width=width,
        height=height,
        caption=caption,
    )


def page(
    title: str, source: str, design: str, *, width: float, height: float, caption: str = ""
) -> Figure:
    """`new_figure` with the three lines of its header as they are given."""
    bottom = MARGIN + (CAPTION if caption else 0)
    height += HEADER + bottom
    layout = ConstrainedLayoutEngine(
        rect=(
            MARGIN / width,
            bottom / height,
            1 - 2 * MARGIN / width,
            1 - (HEADER + bottom) / height,
        ),
        w_pad=0.04,
        h_pad=0.06,
    )
    fig = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(fig)
    lines = [
        (MARGIN, title, {"size": 12.5, "weight": "bold"}),
        (MARGIN + 0.27, source, {"size": 9}),
        (MARGIN + 0.47, design, {"size": 8.5, "color": QUIET}),
    ]
    if caption:
        lines.append((height - MARGIN - 0.14, caption, {"size": 8, "color": QUIET}))
    for inches, text, font in lines:
        artist = fig.text(MARGIN / width, 1 - inches / height, text, va="top", **font)
        artist.set_in_layout(False)
        room = (width - 2 * MARGIN) * fig.dpi * HINTING
        fit(artist, room, fig.canvas.get_renderer())
    return fig


def source_line(result: ContrastResult) -> str:
    return (
        f"model {plain(result.model, 44)}  ·  experiment {plain(result.experiment, 30)}  ·  "
        f"position {plain(result.position, 20)}"
    )


def _design_line(result: ContrastResult) -> str:
    stat_map = result.first_map
    counts = ", ".join(f"{n} {plain(name, 22)}" for n, name in result.counts)
    family = stat_map.family_size
    parts = [
        f"n = {counts}" + ("" if result.counted == "prompts" else f" {result.counted}"),
        f"test {plain(stat_map.test, 20)}",
        f"control {plain(stat_map.control or 'none', 20)}",
        f"α = {stat_map.alpha:g}",
    ]
    if family is not None:
        parts.append(f"family of {family:,} tests")
    return "  ·  ".join(parts)


def p_label(stat_map: StatMap) -> str:
    """What ``significant`` compares with alpha: "fdr_bh-adjusted p" or "uncorrected p"."""
    return "uncorrected p" if stat_map.control is None else f"{plain(stat_map.control)}-adjusted p"


def layer_axis(ax: Axes, n_layers: int) -> None:
    """The whole model's layers on x, recorded or not."""
    ax.set_xlim(-0.5, n_layers - 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, min_n_ticks=1))
    ax.grid(axis="y")
    ax.set_axisbelow(True)


def note(ax: Axes, text: str) -> None:
    """A remark in the middle of a panel that has nothing to show."""
    box = {"facecolor": "white", "edgecolor": "none"}
    where = {"transform": ax.transAxes, "ha": "center", "va": "center"}
    ax.text(0.5, 0.5, text, color=QUIET, bbox=box, **where)

"""Are the sides of every contrast alike, and do words alone tell them apart?"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from activation_analysis.figures.style import FIRST, QUIET, SECOND, figure, note, page
from activation_analysis.figures.text import plain
from activation_analysis.results import ContrastCheck, PromptCheck

ROW = 0.27  # inches of a measure
FARTHEST = 1.5  # a larger difference is drawn at the edge


@figure
def prompt_balance(checked: PromptCheck) -> Figure:
    """A row a contrast: standardised differences of every measure, and the surface decoder."""
    n_rows = sum(len(c.balance) for c in checked.contrasts)
    height = ROW * n_rows + 0.75 * len(checked.contrasts)
    counts = ", ".join(f"{n:,} {plain(c, 22)}" for c, n in checked.counts.items())
    fig = page(
        f"Balance of the prompts: {plain(checked.name, 60)}",
        counts,
        "red: too large  ·  hollow: declared, or adjusted for  ·  band: what is accepted",
        width=9.0,
        height=height,
    )
    heights = [len(c.balance) for c in checked.contrasts]
    grid = fig.add_gridspec(len(heights), 2, width_ratios=[3.2, 1], height_ratios=heights)
    for row, contrast in enumerate(checked.contrasts):
        _draw_balance(fig.add_subplot(grid[row, 0]), contrast)
        _draw_baseline(fig.add_subplot(grid[row, 1]), contrast)
    return fig


def _draw_balance(ax: Axes, checked: ContrastCheck) -> None:
    balance = checked.balance
    for y, row in enumerate(balance.itertuples(index=False)):
        ax.barh(y, 2 * row.limit, left=-row.limit, height=0.72, color="#e8e8e8", linewidth=0)
        excused = row.flagged and row.covariate in checked.excused
        color = FIRST if row.flagged and not excused else "#222222"
        at = max(-FARTHEST, min(FARTHEST, row.smd))
        ax.plot(at, y, "o", ms=6, mec=color, mfc="white" if excused else color, clip_on=False)
        if abs(row.smd) > FARTHEST:
            side = "right" if at > 0 else "left"
            room = -0.07 if at > 0 else 0.07
            ax.text(at + room, y, f"{row.smd:+.1f}", ha=side, va="center", fontsize=8, color=color)
    labels = [
        row.covariate.replace("_", " ") + (f" ({plain(row.pair, 26)})" if row.pair else "")
        for row in balance.itertuples(index=False)
    ]
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.axvline(0, color=QUIET, linewidth=0.8)
    widest = min(FARTHEST, max(0.4, float(balance["smd"].abs().max()) * 1.15))
    ax.set_xlim(-widest, widest)
    ax.set_xlabel("standardised mean difference")
    ax.set_title(plain(checked.contrast, 70))


def _draw_baseline(ax: Axes, checked: ContrastCheck) -> None:
    ax.set_title("words alone")
    baseline = checked.baseline
    if baseline is None:
        ax.set_axis_off()
        note(ax, "nothing can\nbe held out")
        return
    ax.bar(0, baseline.accuracy, width=0.5, color=SECOND)
    spread = [[baseline.accuracy - baseline.lowest], [baseline.highest - baseline.accuracy]]
    ax.errorbar(0, baseline.accuracy, yerr=spread, color="#222222", linewidth=1, capsize=3)
    ax.axhline(baseline.chance, color=QUIET, linestyle="--", linewidth=1)
    ax.text(0.68, baseline.chance, "chance", ha="right", va="bottom", fontsize=8, color=QUIET)
    inside = {"ha": "center", "va": "bottom", "fontsize": 9.5, "color": "white"}
    ax.text(0, 0.03, f"{100 * baseline.accuracy:.0f} %", **inside)
    ax.set_xlim(-0.35, 0.7)
    ax.set_ylim(0, 1.05)
    ax.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    ax.set_xticks([])
    ax.set_ylabel("decoder accuracy")

"""What docs/validation.md shows of the simulations, in the house style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from activation_analysis.figures.style import FIRST, QUIET, SECOND, figure
from benchmarks.validation.coverage import GOAL as COVERAGE_GOAL
from benchmarks.validation.coverage import Coverage
from benchmarks.validation.dependence import Templates
from benchmarks.validation.false_positives import ALPHA, DISTRIBUTIONS, GOAL, SIZES, FalsePositives
from benchmarks.validation.families import Discoveries
from benchmarks.validation.real_activations import HonestRuns, PooledSplits
from benchmarks.validation.selection import Selection

BAND = "#e8e8e8"
BY_SIZE = dict(zip(SIZES, ("#9ecae1", "#4292c6", "#08519c", "#000000"), strict=True))
MARKERS = dict(zip(SIZES, "osD^", strict=True))
RIGHT_EDGE = 0.105
LAWS = {
    "normal": "normal",
    "t3": "heavy tails (t, 3 df)",
    "lognormal": "lognormal",
    "float16": "normal + 100 in float16",
}
CONTROL_COLORS = ("#000000", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")


def _empty(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


@figure
def false_positives(every: Sequence[FalsePositives]) -> Figure:
    """Rates of every test, a panel for each distribution."""
    tests = list(dict.fromkeys(cell.test for cell in every))
    fig = _empty(9.5, 4.6)
    axes = fig.subplots(1, len(DISTRIBUTIONS), sharex=True, sharey=True)
    for ax, law in zip(axes, DISTRIBUTIONS, strict=True):
        ax.axvspan(*GOAL, color=BAND, lw=0)
        ax.axvline(ALPHA, color=QUIET, lw=0.8)
        for cell in (c for c in every if c.distribution == law):
            n = cell.sizes[0]
            y = tests.index(cell.test) + 0.16 * (SIZES.index(n) - 1.5)
            x = cell.rate.value
            marker = MARKERS[n] if x <= RIGHT_EDGE else ">"
            x = min(x, RIGHT_EDGE)
            ax.plot(x, y, marker, color=BY_SIZE[n], ms=4.5, clip_on=False, mew=0)
        ax.set_title(LAWS[law])
        ax.set_xlim(0, RIGHT_EDGE)
        ax.set_xticks([0, 0.05, 0.1])
        ax.grid(axis="y")
        ax.set_axisbelow(True)
    axes[0].set_yticks(range(len(tests)), tests)
    axes[0].invert_yaxis()
    fig.supxlabel("share of null units with p <= .05 (band: .045 to .055)", fontsize=9)
    handles = [
        axes[0].plot([], [], MARKERS[n], color=BY_SIZE[n], ms=5, mew=0, label=f"n = {n}")[0]
        for n in SIZES
    ]
    handles += [axes[0].plot([], [], ">", color=QUIET, ms=5, mew=0, label="beyond the edge")[0]]
    fig.legend(handles=handles, loc="outside upper center", ncols=5)
    return fig


@figure
def real_activations(found: tuple[HonestRuns, PooledSplits]) -> Figure:
    """Smallest family-wise p of every split, and the null maxima of every set of prompts."""
    honest, pooled = found
    fig = _empty(8.5, 3.4)
    left, right = fig.subplots(1, 2)
    p = np.sort(honest.p_smallest)
    expected = np.arange(1, len(p) + 1) / len(p)
    left.plot([0, 1], [0, 1], color=QUIET, lw=0.8)
    left.plot(p, expected, color=SECOND, drawstyle="steps-post")
    left.axvline(ALPHA, color=FIRST, lw=0.8, ls="--")
    rate = honest.any_significant
    left.set_title(f"{rate.n:,} null splits: {rate.value:.3f} at .05")
    left.set_xlabel("family-wise p of the strongest unit")
    left.set_ylabel("share of splits")
    left.set(xlim=(0, 1), ylim=(0, 1))
    bins = np.linspace(pooled.null_max.min(), np.quantile(pooled.null_max, 0.999), 40)
    for maxima in pooled.null_max:
        right.hist(maxima, bins, histtype="step", color=SECOND, alpha=0.5, density=True, lw=0.8)
    thresholds = np.quantile(pooled.null_max, 1 - ALPHA, axis=1)
    right.plot(thresholds, np.zeros_like(thresholds), "|", color=FIRST, ms=14, clip_on=False)
    right.set_title(f"null maxima of {len(pooled.null_max)} sets of prompts")
    right.set_xlabel(f"largest abs(t) of {honest.n_units:,} units (red: .05 thresholds)")
    right.set_ylabel("density")
    return fig


@figure
def discoveries(every: Mapping[float, Mapping[str, Discoveries]]) -> Figure:
    """Mean false discovery proportion by control, and how far single runs stray from it."""
    fig = _empty(8.5, 3.4)
    left, right = fig.subplots(1, 2)
    shares = list(every)
    for k, control in enumerate(every[shares[0]]):
        means = [every[share][control].mean_fdp for share in shares]
        left.errorbar(
            np.arange(len(shares)) + 0.08 * (k - 2),
            [m.value for m in means],
            [2 * m.standard_error for m in means],
            fmt="o",
            ms=4,
            lw=1,
            color=CONTROL_COLORS[k],
            label=control,
        )
    left.axhline(ALPHA, color=QUIET, lw=0.8, ls="--")
    left.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares])
    left.set_xlabel("units planted")
    left.set_ylabel("mean FDP (bars: 2 SE; dashed: q)")
    left.set_ylim(0, None)
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    share = 0.1
    bins = np.linspace(0, 0.5, 41)
    for color, control in ((CONTROL_COLORS[0], "fdr_bh"), (CONTROL_COLORS[1], "fdr_by")):
        fdp = every[share][control].fdp
        right.hist(fdp, bins, histtype="step", color=color, label=control)
    right.axvline(ALPHA, color=QUIET, lw=0.8, ls="--")
    right.set_yscale("log")
    right.set_xlabel(f"FDP of one dataset, {share:.0%} planted")
    right.set_ylabel("datasets")
    return fig


@figure
def coverage(every: Sequence[Coverage]) -> Figure:
    """Coverage of every interval in every situation."""
    fig = _empty(8.5, 9.5)
    ax = fig.subplots()
    ax.axvspan(*COVERAGE_GOAL, color=BAND, lw=0)
    ax.axvline(0.95, color=QUIET, lw=0.8)
    edge = 0.92
    for y, c in enumerate(every):
        x, inside = c.rate.value, COVERAGE_GOAL[0] <= c.rate.value <= COVERAGE_GOAL[1]
        color = SECOND if inside else FIRST
        ax.plot(max(x, edge), y, "<" if x < edge else "o", color=color, ms=4, clip_on=False)
        if x < edge:
            ax.annotate(f"{x:.2f}", (edge, y), (6, 0), textcoords="offset points", va="center")
    labels = [f"{c.effect} = {c.true:.2f}, {c.situation}" for c in every]
    ax.set_yticks(range(len(every)), labels)
    ax.set_ylim(len(every), -1)
    ax.set_xlim(edge, 1)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.grid(axis="y")
    ax.set_axisbelow(True)
    ax.set_xlabel("coverage of 95 % intervals (band: 94 to 96 %; red: outside)")
    return fig


@figure
def selection(every: Sequence[Selection]) -> Figure:
    """Effects of the strongest units where they were chosen, and where they were not."""
    shown = [s for s in every if s.n == 50]
    fig = _empty(8.5, 3.2)
    axes: Sequence[Axes] = fig.subplots(1, len(shown), sharey=True)
    for ax, s in zip(axes, shown, strict=True):
        bins = np.linspace(-1, 2.6, 61)
        for values, color, label in (
            (s.chosen, FIRST, "prompts that chose"),
            (s.measured, SECOND, "held-out prompts"),
        ):
            ax.hist(values.ravel(), bins, color=color, alpha=0.6, density=True, label=label)
        ax.axvline(s.truth.mean(), color="black", lw=1, ls="--", label="mean of the truth")
        ax.set_title(
            f"true d: sd {s.true_sd:g}\nbias {s.in_sample.value:+.2f}, "
            f"held out {s.held_out.value:+.3f}"
        )
        ax.set_xlabel("d of the top 20 of 5,000 units")
    axes[0].set_ylabel("density")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


@figure
def templates(every: Sequence[Templates]) -> Figure:
    """False positives of templated prompts, as independent and by their group."""
    nested = [t for t in every if not t.crossed]
    iccs = [t.icc for t in nested]
    fig = _empty(5.2, 3.4)
    ax = fig.subplots()
    ax.axhspan(0.04, 0.06, color=BAND, lw=0)
    for name, color, marker, size, label in (
        ("naive", FIRST, "o", 5, "prompts as independent"),
        ("means", SECOND, "s", 8, "template means, Student"),
        ("permuted", "black", "^", 4, "whole-block permutation"),
    ):
        values = [getattr(t, name).value for t in nested]
        ax.plot(iccs, values, color=color, marker=marker, ms=size, label=label)
    ax.set_xlabel("intraclass correlation of 10 templates x 10 fillings")
    ax.set_ylabel("false positives at .05")
    ax.set_ylim(0, None)
    ax.set_xticks(iccs)
    ax.legend(loc="upper left")
    return fig

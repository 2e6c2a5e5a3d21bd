"""One contrast as a page of Markdown: the finding first, then what it rests on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from activation_analysis.balance import balance_label
from activation_analysis.report.calibration import calibration_markdown
from activation_analysis.report.markdown import escaped, markdown_table
from activation_analysis.results import ContrastResult, PermutationSummary, number, percent

TOP_SHOWN = 10


def findings_markdown(question: str, results: Sequence[ContrastResult]) -> str:
    """What several contrasts of one experiment found, a line each."""
    lines = "\n".join(f"- {escaped(result.finding)}" for result in results)
    return f"{lines}\n\n{escaped(question)}\n"


def summary_markdown(result: ContrastResult) -> str:
    """What was found, how, and what to be careful about."""
    parts = [
        escaped(result.finding) + ".",
        _heading(result),
        _design(result),
        "## By site\n\n" + _site_table(result),
        f"## Top units\n\n{_top_units_note(result)}\n\n{_top_table(result)}",
        "## Error control\n\n" + _controls(result),
        "## Balance\n\n" + _balance_table(result.balance) + _surface(result),
    ]
    if result.calibration is not None:
        parts.append("## Calibration\n\n" + calibration_markdown(result.calibration))
    if result.warnings:
        parts.append("## Be careful\n\n" + "\n".join(f"- {escaped(w)}" for w in result.warnings))
    return "\n\n".join(parts) + "\n"


def _heading(result: ContrastResult) -> str:
    return f"# {escaped(result.contrast)} · {escaped(result.experiment)} · {escaped(result.model)}"


def _design(result: ContrastResult) -> str:
    first = result.first_map
    question = f"{escaped(result.question)}\n\n" if result.question else ""
    return (
        f"{question}"
        f"{_compared(result)}, position `{result.position}`. Test `{first.test}` at every unit, "
        f"`{first.control}` at {first.alpha:g} over one family of {first.family_size:,} tests "
        f"(every unit of every site, layer and contrast of the run). {_direction(result)} With "
        f"this design {result.power.sentence}."
    )


def _compared(result: ContrastResult) -> str:
    counts = [(n, escaped(name)) for n, name in result.counts]
    if len(counts) == 2:
        (n_a, a), (n_b, b) = counts
        return f"{n_a} {result.counted} of {a} against {n_b} of {b}"
    return f"{result.counted.capitalize()} of " + ", ".join(f"{name}: {n}" for n, name in counts)


def _direction(result: ContrastResult) -> str:
    if result.is_omnibus:
        return (
            "Effects are 2f, the |d| of two equal groups that differ as much; they have no "
            "direction."
        )
    return f"Positive d: {escaped(result.conditions[0])} is higher."


def _site_table(result: ContrastResult) -> str:
    rows = []
    for site, profile in result.profiles.items():
        summary = profile.summary()
        rows.append(
            [
                site,
                f"{int(profile.n_tested.sum()):,}",
                f"{int(profile.n_significant.sum()):,}",
                percent(summary[f"max_prop_significant/{site}"]),
                str(profile.peak_layer),
                number(profile.peak_depth),
                number(summary[f"max_abs_d/{site}"]),
                number(summary[f"held_out_d/{site}"]),
                number(np.nansum(profile.n_true_at_least), ",.0f"),
            ]
        )
    header = [
        "site",
        "tested",
        "significant",
        "best layer's share",
        "peak layer",
        "peak depth",
        "max abs(d)",
        "held-out d, top 1 %",
        "respond at least",
    ]
    return markdown_table(header, rows)


def _top_units_note(result: ContrastResult) -> str:
    top = result.top_units
    if sum(top.n_held_out) == 0:
        return (
            "Chosen and measured on the same prompts (too few to hold any out): "
            "these effects are inflated by the choice."
        )
    return (
        f"Chosen and ordered by |d| on {_sum(top.n_selection)} {result.counted} (d that chose "
        f"it); the held-out d is measured on the other {_sum(top.n_held_out)}, which had no say, "
        f"and is the one to report. d, p and adjusted p are from all {result.counted}."
    )


def _sum(counts: Sequence[int]) -> str:
    return " + ".join(map(str, counts))


def _top_table(result: ContrastResult) -> str:
    rows = [
        [
            row.site,
            str(row.layer),
            str(row.unit),
            f"{row.selected_d:+.2f}",
            f"{row.effect_size:+.2f}",
            f"{row.p_value:.1e}",
            f"{row.p_adjusted:.1e}",
            number(row.held_out_d, "+.2f"),
            f"{number(row.held_out_low, '+.2f')} to {number(row.held_out_high, '+.2f')}",
        ]
        # A namedtuple has a method called index.
        for row in result.top_units.units.head(TOP_SHOWN)
        .rename(columns={"index": "unit"})
        .itertuples(index=False)
    ]
    header = [
        "site",
        "layer",
        "unit",
        "d that chose it",
        "d",
        "p",
        "p adjusted",
        "held-out d",
        "95 % interval",
    ]
    return markdown_table(header, rows)


def _controls(result: ContrastResult) -> str:
    rows = [[name, f"{count:,}"] for name, count in result.n_significant_by_control.items()]
    note = (
        "The same p-values under every control. Neighbouring units are dependent: fdr_by holds "
        "under any dependence, bonferroni and holm bound the chance of a single false positive."
    )
    parts = [note, markdown_table(["control", "significant units"], rows)]
    if result.permutation is not None:
        parts.insert(0, _shuffled(result.permutation))
    if result.n_true_at_least is not None:
        parts.append(
            f"At least {result.n_true_at_least:,} units of this contrast respond, with confidence "
            f"{1 - result.first_map.alpha:.0%} (all-resolutions inference, Simes): the bounds by "
            f"site and layer hold at once, whichever set you look at."
        )
    return "\n\n".join(parts)


def _shuffled(permutation: PermutationSummary) -> str:
    """What the permutation test did, and how well its tail is described."""
    said = f"Max-statistic permutation: {permutation.sentence}."
    if permutation.is_statistic:
        said += f" A unit must reach {permutation.critical:.2f} in a single step."
    if permutation.tail_passed:
        said += (
            f" Beyond the counted p, `p_tail` of the unit tables comes from a generalised Pareto "
            f"tail (shape {permutation.tail_shape:.2f}, goodness of fit p = "
            f"{permutation.tail_fit_p:.2f}); report it beside the counted one."
        )
    elif not np.isnan(permutation.tail_fit_p):
        said += (
            f" No generalised Pareto tail fits (p = {permutation.tail_fit_p:.3f}): counted p only."
        )
    return said


def _surface(result: ContrastResult) -> str:
    """What words alone tell, to read every map against."""
    if result.surface is None:
        return ""
    return f"\n\nSurface baseline: {escaped(result.surface.sentence)}."


def _balance_table(balance: pd.DataFrame) -> str:
    rows = [
        [
            escaped(balance_label(row)),
            f"{row.mean_first:.2f} ± {row.sd_first:.2f}",
            f"{row.mean_second:.2f} ± {row.sd_second:.2f}",
            f"{row.smd:+.3f}" + (" (!)" if row.flagged else ""),
        ]
        for row in balance.itertuples(index=False)
    ]
    header = ["covariate", "first side", "second side", "standardised difference"]
    return markdown_table(header, rows)

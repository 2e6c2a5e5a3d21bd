"""One contrast as a page of Markdown: the finding first, then what it rests on."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from activation_analysis.report.calibration import calibration_markdown
from activation_analysis.report.markdown import escaped, markdown_table
from activation_analysis.results import ContrastResult, number, percent

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
        "## Balance of the two sides\n\n" + _balance_table(result.balance),
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
    a, b = result.conditions
    question = f"{escaped(result.question)}\n\n" if result.question else ""
    return (
        f"{question}"
        f"{result.n[0]} prompts of {escaped(a)} against {result.n[1]} of {escaped(b)}, position "
        f"`{result.position}`. Test `{first.test}` at every unit, `{first.control}` at "
        f"{first.alpha:g} over one family of {first.family_size:,} units (every site and layer). "
        f"Positive d: {escaped(a)} is higher. With this design an effect of |d| = "
        f"{result.power.minimum_detectable_d:.2f} is found in 80 % of studies at the strictest "
        f"threshold of the family (alpha / {first.family_size:,})."
    )


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
        f"Chosen and ordered by |d| on {top.n_selection[0]} + {top.n_selection[1]} prompts (d that "
        f"chose it); the held-out d is measured on the other {top.n_held_out[0]} + "
        f"{top.n_held_out[1]}, which had no say, and is the one to report. d, p and adjusted p are "
        f"from all prompts."
    )


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
    return note + "\n\n" + markdown_table(["control", "significant units"], rows)


def _balance_table(balance: pd.DataFrame) -> str:
    rows = [
        [
            escaped(str(row.covariate)),
            f"{row.mean_first:.2f} ± {row.sd_first:.2f}",
            f"{row.mean_second:.2f} ± {row.sd_second:.2f}",
            f"{row.smd:+.3f}" + (" (!)" if row.flagged else ""),
        ]
        for row in balance.itertuples(index=False)
    ]
    header = ["covariate", "first side", "second side", "standardised difference"]
    return markdown_table(header, rows)

"""A calibration as Markdown: the verdict first, then what it rests on."""

from __future__ import annotations

from activation_analysis.report.markdown import escaped, markdown_table
from activation_analysis.results.calibration import (
    FLAGGED,
    MEANING,
    CalibratedContrast,
    Calibration,
    ErrorRate,
)

ADVICE = (
    "More false positives than alpha promises: do not report these p-values as they are. Prompts "
    "that are alike (a template, an author, a source) need a column `group`; unequal variances "
    '`test = "welch"`; skewed units `control = "max_t"`.'
)


def calibration_summary(of: CalibratedContrast) -> str:
    """The page of a calibration run."""
    n = ", ".join(f"{n} {escaped(c)}" for n, c in zip(of.n, of.conditions, strict=True))
    return (
        f"{escaped(of.calibration.sentence)}.\n\n"
        f"# Calibration of {escaped(of.contrast)} · {escaped(of.experiment)} · "
        f"{escaped(of.model)}\n\n{n}, position `{of.position}`.\n\n"
        f"{calibration_markdown(of.calibration)}\n"
    )


def calibration_markdown(calibration: Calibration) -> str:
    """Verdict, table of the nulls, and how they were made."""
    c = calibration
    header = [
        "null",
        "repetitions",
        f"p <= {c.alpha:g}, any one unit",
        f"any unit after {c.control}",
        "distance from uniform",
        "verdict",
    ]
    rows = [
        [
            null.null,
            null.repetitions,
            _interval(null.fpr),
            _interval(null.family_wise),
            f"{null.p_values.distance:.3f}",
            f"**{null.verdict}**" if null.verdict == FLAGGED else null.verdict,
        ]
        for null in c.nulls
    ]
    parts = [
        f"**{c.verdict}**: nulls made of these very activations, through test `{c.test}` and "
        f"control `{c.control}` at {c.alpha:g}, on {c.n_units:,} of {c.n_all_units:,} units. "
        f"Both rates should be near or below {c.alpha:g}; 95 % intervals are from the spread "
        f"between repetitions. Nothing is true in them, so that the false-discovery proportion is "
        f"1 wherever anything is found: its mean is the rate of repetitions with any unit left.",
        markdown_table(header, rows),
        _how(c),
    ]
    if c.flagged:
        parts.insert(1, ADVICE)
    return "\n\n".join(parts)


def _interval(rate: ErrorRate) -> str:
    return f"{rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f})"


def _how(c: Calibration) -> str:
    lines = []
    for null in c.nulls:
        line = f"- {null.null}: {MEANING[null.null]}"
        if null.n_clusters:
            line += f" ({null.n_clusters} clusters of prompts)"
        lines.append(line)
    lines += [f"- {name}: left out, {escaped(why)}" for name, why in c.skipped.items()]
    if c.n_permutations:
        lines.append(
            f"- every repetition shuffles labels {c.n_permutations} times in a single step; its "
            f"p-values per unit are those of the shuffles"
        )
    return "\n".join(lines)

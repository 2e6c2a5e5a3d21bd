"""Would a difference between these prompts mean what it seems to mean? Asked before anything runs.

What sinks studies of prompts lies in the prompts: one condition is longer, ten sentences were
filled in ten times each, the same text stands in both conditions, words alone give the answer
away, or there are too few to find anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from activation_analysis import cautions
from activation_analysis import prompt_findings as look_for
from activation_analysis.analyses.design_power import power_of, small_sample_warning
from activation_analysis.balance import contrast_balance
from activation_analysis.contrasts import Contrast
from activation_analysis.duplicates import first_alike
from activation_analysis.errors import ExperimentError
from activation_analysis.experiment import Experiment
from activation_analysis.prompts import PromptSet
from activation_analysis.results import (
    EXCHANGED,
    ContrastCheck,
    Finding,
    PromptCheck,
    many_of,
)
from activation_analysis.spans import SPAN_COLUMNS
from activation_analysis.study_designs import check_answerable, design_of, power_sides, side_names
from activation_analysis.surface_baseline import contrast_baseline
from activation_analysis.templates import find_templates
from activation_analysis.text_measures import SURFACE

Counter = Callable[[Sequence[str]], np.ndarray]
MOST_COMPARED = 2_000  # prompts that are searched for templates and near-duplicates
AT_ONCE = 5_000  # prompts whose texts are counted in one go


def check_prompts(
    experiment: Experiment,
    measures: Mapping[str, np.ndarray],
    *,
    context: int | None = None,
    family_size: int = 1,
    uncounted: str = "",
) -> PromptCheck:
    """Look for what would make a result of this experiment mean less than it seems to.

    Parameters
    ----------
    experiment : its prompts may hold duplicates (``read_prompts(duplicates="keep")``)
    measures : what was counted elsewhere, name -> (n_prompts,): ``tokens``, ``word_frequency``,
        ``surprisal``; what `text_measures` counts always comes on top
    context : most tokens that the model reads
    family_size : units that a run would test, for its power; 1 where unknown
    uncounted : why there are no ``tokens``, where they should have been counted

    Returns
    -------
    PromptCheck
    """
    prompts = experiment.prompts
    measures = counted(prompts, SURFACE) | dict(measures)
    first = first_alike(
        *(prompts.table[c] for c in ("prompt", *SPAN_COLUMNS) if c in prompts.table)
    )
    copies = np.flatnonzero(first != np.arange(len(first), dtype=first.dtype))
    compared = prompts.take(_sample(prompts, copies))
    found = find_templates(compared)
    findings = [
        *look_for.noted("tokens", f"tokens were not counted: {uncounted}" if uncounted else ""),
        *look_for.duplicates(prompts, first, copies),
        *look_for.near_duplicates(compared, found),
        *look_for.too_long(prompts, measures.get("tokens"), context),
        *look_for.noted("marks", cautions.unread_marks(prompts, experiment.recording.position)),
    ]
    checks = []
    for contrast in experiment.contrasts:
        checked, more = _check_contrast(experiment, contrast, measures, family_size)
        findings += [
            *look_for.incomplete_items(prompts, contrast),
            *look_for.place_read(experiment, compared, contrast),
        ]
        notes, templates = look_for.templates(compared, contrast, found, experiment, checked)
        findings += [*more, *templates]
        baseline = contrast_baseline(compared, contrast, seed=experiment.seed)
        checks.append(replace(checked, baseline=baseline, notes=(*checked.notes, *notes)))
    unique = tuple(dict.fromkeys(findings))  # what concerns all contrasts is said once
    sampled = len(compared) < len(prompts) - len(copies)
    return PromptCheck(
        experiment.name, prompts.counts, tuple(checks), unique, len(compared), sampled
    )


def counted(prompts: PromptSet, counters: Mapping[str, Counter]) -> dict[str, np.ndarray]:
    """Every count of every prompt, (n_prompts,) float32, which is exact to 16 million."""
    counts = {name: np.empty(len(prompts), dtype=np.float32) for name in counters}
    start = 0
    for texts in prompts.chunks(AT_ONCE):
        for name, count in counters.items():
            counts[name][start : start + len(texts)] = count(texts)
        start += len(texts)
    return counts


def _check_contrast(
    experiment: Experiment,
    contrast: Contrast,
    measures: Mapping[str, np.ndarray],
    family_size: int,
) -> tuple[ContrastCheck, list[Finding]]:
    """One contrast's balance and design, and what is off in them."""
    prompts, options = experiment.prompts, experiment.analysis
    balance = contrast_balance(prompts, contrast, measures)
    excused = frozenset({*options.nuisance, *experiment.settings.check.expected})
    findings = [*look_for.imbalance(contrast, balance, excused)]
    alone = ContrastCheck(
        contrast=str(contrast),
        sides=side_names(contrast),
        balance=balance,
        excused=excused,
        baseline=None,
        test=options.test,
        relabellings="",
        power=None,
        notes=(),
    )
    try:
        check_answerable(experiment)
        design = design_of(experiment, contrast, measures.get("tokens", np.ones(len(prompts))))
        kind, logarithm, distinct = design.relabellings
    except (ExperimentError, ValueError) as error:
        return alone, [*findings, Finding("design", str(error))]
    labels, sizes = power_sides(contrast, design)
    control = options.control if family_size > 1 else "none"
    power = power_of(design, sizes, alpha=options.alpha, family_size=family_size, control=control)
    how = EXCHANGED[kind].replace("prompt", "group") if design.means else EXCHANGED[kind]
    units = "groups" if design.means else "items" if design.is_paired else "prompts"
    few = small_sample_warning(labels, power, units)
    findings += look_for.noted("few_prompts", f"{contrast}: {few}" if few else "")
    findings += look_for.unreachable(contrast, distinct, options.control, options.alpha)
    pooled = cautions.unequal_pooling(prompts, contrast, design.test)
    findings += look_for.noted("pooling", f"{contrast}: {pooled}" if pooled else "")
    notes, more = look_for.dependence(experiment, design)
    checked = replace(
        alone,
        test=design.test,
        relabellings=f"{many_of(logarithm)} relabellings ({how})",
        power=power,
        notes=notes,
    )
    return checked, [*findings, *more]


def _sample(prompts: PromptSet, copies: np.ndarray) -> np.ndarray:
    """Rows that are compared with each other: all, or some of every condition, always the same.

    Copies are left out, unless that would leave a condition without prompts.
    """
    rng, quota = np.random.default_rng(0), MOST_COMPARED // len(prompts.conditions)
    n_distinct = len(prompts) - len(copies)
    kept = []
    for name in prompts.conditions:
        rows = prompts.rows_of(name)
        own = np.setdiff1d(rows, copies, assume_unique=True) if len(copies) else rows
        own = own if len(own) else rows
        many = n_distinct > MOST_COMPARED and len(own) > quota
        kept.append(rng.choice(own, quota, replace=False) if many else own)
    return np.sort(np.concatenate(kept))

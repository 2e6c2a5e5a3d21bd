"""Would a difference between these prompts mean what it seems to mean? Asked before anything runs.

What sinks studies of prompts lies in the prompts: one condition is longer, ten sentences were
filled in ten times each, the same text stands in both conditions, words alone give the answer
away, or there are too few to find anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from activation_analysis import cautions
from activation_analysis.analyses.design_power import power_of, small_sample_warning
from activation_analysis.analyses.designs import Design
from activation_analysis.analyses.templating import templating
from activation_analysis.balance import balance_label, contrast_balance
from activation_analysis.contrasts import Contrast
from activation_analysis.duplicates import first_alike
from activation_analysis.errors import ExperimentError, PromptError
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
from activation_analysis.templates import ALONE, Templates, find_templates
from activation_analysis.text_measures import SURFACE

Counter = Callable[[Sequence[str]], np.ndarray]
MOST_COMPARED = 3_000  # prompts that are searched for templates and near-duplicates
FEWEST_FILLINGS = 3  # of a template; two prompts alike are near-duplicates
AT_ONCE = 5_000  # prompts whose texts are counted in one go
QUOTED = 3  # examples in one sentence


def check_prompts(
    experiment: Experiment,
    measures: Mapping[str, np.ndarray],
    *,
    context: int | None = None,
    family_size: int = 1,
) -> PromptCheck:
    """Look for what would make a result of this experiment mean less than it seems to.

    Parameters
    ----------
    experiment : its prompts may hold duplicates (``read_prompts(duplicates="keep")``)
    measures : what was counted elsewhere, name -> (n_prompts,): ``tokens``, ``word_frequency``,
        ``surprisal``; what `text_measures` counts always comes on top
    context : most tokens that the model reads
    family_size : units that a run would test, for its power; 1 where unknown

    Returns
    -------
    PromptCheck
    """
    prompts = experiment.prompts
    measures = counted(prompts, SURFACE) | dict(measures)
    first = first_alike(
        *(prompts.table[c] for c in ("prompt", *SPAN_COLUMNS) if c in prompts.table)
    )
    distinct = np.flatnonzero(first == np.arange(len(prompts)))
    compared = prompts.take(_sample(prompts, distinct))
    found = find_templates(compared)
    findings = [
        *_duplicates(prompts, first),
        *_near_duplicates(compared, found),
        *_too_long(prompts, measures.get("tokens"), context),
        *_said("marks", cautions.unread_marks(prompts, experiment.recording.position)),
    ]
    checks = []
    for contrast in experiment.contrasts:
        checked, more = _check_contrast(experiment, contrast, measures, family_size)
        notes, templates = _templates(compared, contrast, _larger(found), experiment, checked)
        findings += [*more, *templates]
        baseline = contrast_baseline(compared, contrast, seed=experiment.seed)
        checks.append(replace(checked, baseline=baseline, notes=(*checked.notes, *notes)))
    unique = tuple(dict.fromkeys(findings))  # what concerns all contrasts is said once
    sampled = len(compared) < len(distinct)
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
    findings = [*_imbalance(contrast, balance, excused)]
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
    counted = "groups" if design.means else "items" if design.is_paired else "prompts"
    few = small_sample_warning(labels, power, counted)
    findings += _said("few_prompts", f"{contrast}: {few}" if few else "")
    findings += _unreachable(contrast, distinct, options.alpha)
    pooled = cautions.unequal_pooling(prompts, contrast, design.test)
    findings += _said("pooling", f"{contrast}: {pooled}" if pooled else "")
    notes, more = _dependence(experiment, design)
    checked = replace(
        alone,
        test=design.test,
        relabellings=f"{many_of(logarithm)} relabellings ({how})",
        power=power,
        notes=notes,
    )
    return checked, [*findings, *more]


def _said(kind: str, message: str) -> list[Finding]:
    return [Finding(kind, message)] if message else []


def _sample(prompts: PromptSet, distinct: np.ndarray) -> np.ndarray:
    """Rows that are compared with each other: all, or some of every condition, always the same.

    Copies are left out, unless that would leave a condition without prompts.
    """
    condition = prompts.table["condition"].to_numpy()
    rng, quota = np.random.default_rng(0), MOST_COMPARED // len(prompts.conditions)
    kept = []
    for name in prompts.conditions:
        rows = distinct[condition[distinct] == name]
        rows = rows if len(rows) else np.flatnonzero(condition == name)
        many = len(distinct) > MOST_COMPARED and len(rows) > quota
        kept.append(rng.choice(rows, quota, replace=False) if many else rows)
    return np.sort(np.concatenate(kept))


def _duplicates(prompts: PromptSet, first: np.ndarray) -> list[Finding]:
    copies = np.flatnonzero(first != np.arange(len(first)))
    if not len(copies):
        return []
    condition = prompts.table["condition"].to_numpy()
    across = copies[condition[copies] != condition[first[copies]]]
    shown = (across if len(across) else copies)[:QUOTED]
    named = "; ".join(f"{prompts.where(row)} repeats {prompts.where(first[row])}" for row in shown)
    kinds = f", {len(across)} of them in another condition" if len(across) else ""
    return [
        Finding(
            "duplicates",
            f"{_many(len(copies), 'prompt')} {_are(len(copies))} there before, word for word"
            f"{kinds} ({named}); a run refuses them",
        )
    ]


def _near_duplicates(prompts: PromptSet, found: Templates) -> list[Finding]:
    """Two prompts of nearly the same words that no item and no group declares."""
    pairs = [np.flatnonzero(found.label == k) for k in np.flatnonzero(found.size == 2)]
    pairs = [(a, b) for a, b in pairs if prompts.texts[a] != prompts.texts[b]]
    if not pairs:
        return []
    condition = prompts.table["condition"].to_numpy()
    across = [pair for pair in pairs if condition[pair[0]] != condition[pair[1]]]
    named = "; ".join(
        f"{prompts.where(b)} is like {prompts.where(a)}" for a, b in (across or pairs)[:QUOTED]
    )
    kinds = f", {len(across)} of them across conditions" if across else ""
    return [
        Finding(
            "near_duplicates",
            f"{_many(len(pairs), 'pair')} of prompts {_are(len(pairs))} nearly the same words"
            f"{kinds} ({named}); rewrite one of each, or give matched prompts a column 'item'",
        )
    ]


def _larger(found: Templates) -> Templates:
    """The templates of three fillings and more."""
    n_kept = int(np.sum(found.size >= FEWEST_FILLINGS))
    return replace(
        found,
        label=np.where(found.label < n_kept, found.label, ALONE),
        size=found.size[:n_kept],
        skeletons=found.skeletons[:n_kept],
    )


def _templates(
    prompts: PromptSet,
    contrast: Contrast,
    found: Templates,
    experiment: Experiment,
    checked: ContrastCheck,
) -> tuple[tuple[str, ...], list[Finding]]:
    """Templates that no column declares: a note where a test minds them little."""
    if not len(found):
        return (), []
    alpha = experiment.analysis.alpha
    try:
        said = templating(prompts, contrast, test=checked.test, alpha=alpha, found=found)
    except PromptError:  # a sample, or a set with copies, tears pairs apart
        said = templating(prompts, contrast, alpha=alpha, found=found)
    if not said:
        return (), []
    if said.endswith(cautions.OFF_BY_LITTLE):
        return (said,), []
    return (), [Finding("templates", f"{contrast}: {said}")]


def _too_long(
    prompts: PromptSet, n_tokens: np.ndarray | None, context: int | None
) -> list[Finding]:
    rows = np.flatnonzero(n_tokens > context) if n_tokens is not None and context else []
    if not len(rows):
        return []
    row = rows[0]
    return [
        Finding(
            "too_long",
            f"{_many(len(rows), 'prompt')} {_are(len(rows))} longer than the model's context of "
            f"{context} tokens ({prompts.where(row)}: {n_tokens[row]:,.0f}); shorten or --truncate",
        )
    ]


def _imbalance(contrast: Contrast, balance: pd.DataFrame, excused: frozenset[str]) -> list[Finding]:
    off = balance[balance["flagged"] & ~balance["covariate"].isin(excused)]
    if off.empty:
        return []
    named = ", ".join(
        f"{balance_label(row)} ({row.smd:+.2f}, at most {row.limit:.2g})"
        for row in off.itertuples()
    )
    return [
        Finding(
            "imbalance",
            f"{contrast}: the sides differ in {named}: units that follow it will look as if they "
            f"followed the contrast; mend prompts, adjust for a length with nuisance, or write "
            f"[check] expected where it belongs to the construct",
        )
    ]


def _unreachable(contrast: Contrast, log10_distinct: float, alpha: float) -> list[Finding]:
    if log10_distinct >= -np.log10(alpha) - 1e-9:
        return []
    n = round(10**log10_distinct)
    return [
        Finding(
            "relabellings",
            f"{contrast}: {n} different relabellings allow no permutation p below {1 / n:.2g}: "
            f"nothing can be significant at {alpha:g} under max_t; write more prompts or groups",
        )
    ]


def _dependence(experiment: Experiment, design: Design) -> tuple[tuple[str, ...], list[Finding]]:
    """What binds prompts together: a note where the test honours it, else a finding."""
    options = experiment.analysis
    said = cautions.dependence(
        experiment.prompts,
        design.test,
        n_groups=design.n if design.means else (),
        shuffled=options.control == "max_t" and design.blocks is not None,
        adjusted=options.nuisance,
    )
    if design.means:
        return (said,), []
    return (), _said("dependence", said)


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _are(n: int) -> str:
    return "is" if n == 1 else "are"

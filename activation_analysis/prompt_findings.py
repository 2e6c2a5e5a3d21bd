"""What can be off in prompts: each looks for one thing, and says it in one sentence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from activation_analysis import cautions
from activation_analysis.analyses.designs import Design
from activation_analysis.analyses.templating import templating
from activation_analysis.balance import balance_label
from activation_analysis.contrasts import Contrast
from activation_analysis.errors import PromptError
from activation_analysis.experiment import Experiment
from activation_analysis.prompts import PromptSet
from activation_analysis.results import ContrastCheck, Finding, plural
from activation_analysis.surface_baseline import contrast_baseline
from activation_analysis.templates import ALONE, Templates
from activation_analysis.text_measures import PLACES

FEWEST_FILLINGS = 3  # of a template; two prompts alike are near-duplicates
MOST_TOLD_BY_PLACE = 0.1  # above chance
QUOTED = 3  # examples in one sentence


def duplicates(prompts: PromptSet, first: np.ndarray, copies: np.ndarray) -> list[Finding]:
    """The same prompt twice; ``copies`` are the rows that repeat row ``first`` of theirs."""
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
            f"{plural(len(copies), 'prompt')} {_are(len(copies))} there before, word for word"
            f"{kinds} ({named}); a run refuses them",
        )
    ]


def near_duplicates(prompts: PromptSet, found: Templates) -> list[Finding]:
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
    declared = prompts.blocks is not None
    pairing = "" if declared else ", or give matched prompts a column 'item'"
    return [
        Finding(
            "near_duplicates",
            f"{plural(len(pairs), 'pair')} of prompts {_are(len(pairs))} nearly the same words"
            f"{kinds} ({named}); rewrite one of each{pairing}",
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


def templates(
    prompts: PromptSet,
    contrast: Contrast,
    found: Templates,
    experiment: Experiment,
    checked: ContrastCheck,
) -> tuple[tuple[str, ...], list[Finding]]:
    """Templates that no column declares: a note where a test minds them little."""
    found = _larger(found)
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


def too_long(prompts: PromptSet, n_tokens: np.ndarray | None, context: int | None) -> list[Finding]:
    rows = np.flatnonzero(n_tokens > context) if n_tokens is not None and context else []
    if not len(rows):
        return []
    row = rows[0]
    return [
        Finding(
            "too_long",
            f"{plural(len(rows), 'prompt')} {_are(len(rows))} longer than the model's context of "
            f"{context} tokens ({prompts.where(row)}: {n_tokens[row]:,.0f}); shorten or --truncate",
        )
    ]


def imbalance(contrast: Contrast, balance: pd.DataFrame, excused: frozenset[str]) -> list[Finding]:
    off = balance[balance["flagged"] & ~balance["covariate"].isin(excused)]
    if off.empty:
        return []
    named = ", ".join(
        f"{balance_label(row)} ({row.smd:+.3f}, at most {row.limit:.2g})"
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


def unreachable(
    contrast: Contrast, log10_distinct: float, control: str, alpha: float
) -> list[Finding]:
    if control != "max_t" or log10_distinct >= -np.log10(alpha) - 1e-9:
        return []
    n = round(10**log10_distinct)
    return [
        Finding(
            "relabellings",
            f"{contrast}: {n} different relabellings allow no permutation p below {1 / n:.2g}: "
            f"nothing can be significant at {alpha:g} under max_t; write more prompts or groups",
        )
    ]


def dependence(experiment: Experiment, design: Design) -> tuple[tuple[str, ...], list[Finding]]:
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
    return (), noted("dependence", said)


def incomplete_items(prompts: PromptSet, contrast: Contrast) -> list[Finding]:
    """Matched sets that lack a condition, where most sets have several."""
    if "item" not in prompts.table:
        return []
    rows = prompts.rows_of(contrast.conditions)
    table = prompts.table.iloc[rows]
    # Of pooled conditions any will do: an item lacks a side, not a condition.
    sides = [(c,) for c in contrast.conditions]
    if not contrast.is_omnibus:
        sides = [contrast.first, contrast.second]
    side_of = {c: k for k, side in enumerate(sides) for c in side}
    spread = table["condition"].map(side_of).groupby(table["item"], sort=False).nunique()
    missing = spread[spread < len(sides)].index
    if not len(missing) or (spread >= 2).mean() < 0.5:
        return []
    first = rows[np.flatnonzero(table["item"] == missing[0])[0]]
    return [
        Finding(
            "items",
            f"{contrast}: {plural(len(missing), 'item')} of {len(spread)} {_lack(len(missing))} a "
            f"condition ({missing[0]!r}, {prompts.where(first)}); complete or delete "
            f"them; a paired test refuses them, and a blocked one gets little from them",
        )
    ]


def place_read(experiment: Experiment, prompts: PromptSet, contrast: Contrast) -> list[Finding]:
    """Whether the token that is read differs by itself; activations there would show it."""
    place = experiment.recording.position
    name = f"{place}_token"
    if name not in PLACES or name in experiment.settings.check.expected:
        return []
    found = contrast_baseline(prompts, contrast, place=place, seed=experiment.seed)
    if found is None or not found.beats_chance(by=MOST_TOLD_BY_PLACE):
        return []
    return [
        Finding(
            name,
            f"{contrast}: the {place} word or mark alone tells the sides apart with "
            f"{100 * found.accuracy:.0f} % balanced accuracy (chance {100 * found.chance:.0f} %), "
            f"and activations are read there; make it alike, read another position, or "
            f'write [check] expected = ["{name}"] where it belongs to the construct',
        )
    ]


def noted(kind: str, message: str) -> list[Finding]:
    return [Finding(kind, message)] if message else []


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _lack(n: int) -> str:
    return "lacks" if n == 1 else "lack"

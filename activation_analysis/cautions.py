"""What to be careful about in a contrast, each said in one sentence; "" where there is nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from activation_analysis.activations import Activations, RecordingSummary
from activation_analysis.balance import balance_label
from activation_analysis.contrasts import Contrast
from activation_analysis.options import PAIRED_TESTS, WEIGHTED_TESTS
from activation_analysis.prompts import PromptSet
from activation_analysis.results import LayerProfile, PermutationSummary, StatMap, plural
from activation_analysis.spans import has_marks
from activation_analysis.templates import Templates

MASSIVE_SHARE = 0.5  # of a layer's variance, in three units
N_TRUNCATED = "n_truncated"  # the detail of a capture that counts prompts cut at the context
NOTEWORTHY = 1.3  # times alpha, from where on a test is said to be off
OFF_BY_LITTLE = "a test that takes them for independent is off by little"
LONGEST_QUOTE = 60  # characters of a template or a filling


def truncation(activations: Activations | RecordingSummary) -> str:
    """Prompts that the model did not read to their end."""
    n_cut = int(activations.details.get(N_TRUNCATED) or 0)
    if not n_cut:
        return ""
    were = "was" if n_cut == 1 else "were"
    return (
        f"{n_cut} of {len(activations)} prompts {were} longer than the model's context and "
        f"{were} cut: what came after was not read"
    )


def unread_marks(prompts: PromptSet, position: str) -> str:
    """Prompts that all seem to mark a stretch, at a position that does not read it."""
    if position == "span" or not all(map(has_marks, prompts.table["prompt"])):
        return ""  # in some prompts alone, brackets are a matrix or a link
    return (
        f"every prompt holds [[...]], which the model reads as text at position {position!r}; "
        f"position 'span' reads it as marks"
    )


def imbalance(balance: pd.DataFrame, adjusted: Sequence[str] = ()) -> str:
    """Covariates in which the two sides differ, of a table that `balance` made.

    ``adjusted`` are those that the test takes out.
    """
    off = balance[balance["flagged"] & ~balance["covariate"].isin(adjusted)]
    if off.empty:
        return ""
    named = ", ".join(f"{balance_label(row)} ({row.smd:+.2f})" for row in off.itertuples())
    return (
        f"the two sides differ in {named} (standardised difference beyond 0.1): "
        f"units that follow it will look as if they followed the contrast"
    )


def unequal_pooling(prompts: PromptSet, contrast: Contrast, test: str) -> str:
    """Pooled conditions of different size, whose mean is not the mean of their means."""
    if test in WEIGHTED_TESTS or contrast.is_omnibus:
        return ""
    counts = prompts.counts
    for conditions in (contrast.first, contrast.second):
        if len({counts[c] for c in conditions}) > 1:
            return (
                f"{' + '.join(conditions)} are pooled with unequal numbers of prompts "
                f"({', '.join(str(counts[c]) for c in conditions)}): the larger one weighs more"
            )
    return ""


def dependence(
    prompts: PromptSet,
    test: str,
    *,
    n_groups: tuple[int, ...] = (),
    shuffled: bool = False,
    adjusted: Sequence[str] = (),
) -> str:
    """Prompts that belong together, and what the test makes of it.

    ``n_groups`` of every condition, where their means are compared; ``shuffled`` where labels
    are exchanged only as the groups allow. ``adjusted`` are the covariates that the test takes out.
    """
    if prompts.blocks is None or (test in PAIRED_TESTS and not n_groups):
        return ""
    if len(set(prompts.blocks)) in (1, len(prompts)):  # nothing is more alike than the rest
        return ""
    column = "group" if "group" in prompts.table else "item"
    if column in adjusted:
        return ""
    if n_groups:
        n = " and ".join(map(str, n_groups))
        return (
            f"the {column} is the unit of analysis: means of {n} {column}s are compared, not "
            f"their prompts"
        )
    if shuffled:
        return ""
    return (
        f"the prompts have a column {column!r}, but test {test!r} treats every prompt as "
        f"independent: p-values are off where prompts of one {column} are alike (too small where "
        f"one {column} lies all or mostly on one side, too large where it is evenly on both); "
        f"control 'max_t' shuffles within each {column}"
    )


def exclusion(maps: Mapping[str, StatMap]) -> str:
    """Units that could not be tested, counted by reason."""
    reasons = Counter(
        str(reason) for stat_map in maps.values() for reason in stat_map.excluded[~stat_map.tested]
    )
    if not reasons:
        return ""
    named = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
    return f"units excluded from the tests: {named}"


def massive_units(profiles: Mapping[str, LayerProfile]) -> str:
    """Layers where three units have most of the variance, which sums over units would only hear."""
    worst = {
        site: int(np.nanargmax(p.top_variance_share))
        for site, p in profiles.items()
        if np.nanmax(p.top_variance_share, initial=0.0) > MASSIVE_SHARE
    }
    if not worst:
        return ""
    named = ", ".join(
        f"{site} (layer {profiles[site].layer[at]}: {profiles[site].top_variance_share[at]:.0%})"
        for site, at in worst.items()
    )
    return (
        f"massive units: three units have most of a layer's variance at {named}; tests of each "
        f"unit do not mind, but similarities over units (RSA, CKA) should be z-scored"
    )


def templated(
    found: Templates,
    prompts: PromptSet,
    contrast: Contrast,
    naive_rate: float,
    *,
    icc: float,
    alpha: float = 0.05,
) -> str:
    """Fillings of a few templates that no column declares, and what ignoring them would do.

    Parameters
    ----------
    found : what `find_templates` says of the prompts
    naive_rate : the share of null units that a test of this contrast calls significant when it
        takes the prompts for independent, as `analyses.templating.naive_rate` predicts
        from ``found.groups`` and ``icc``
    icc : the correlation of fillings of one template that this rests on
    """
    sides = contrast.conditions if contrast.is_omnibus else (contrast.first, contrast.second)
    rows = [prompts.rows_of(side) for side in sides]
    used = [Counter(found.label[r].tolist()) for r in rows]
    concerned = sum(n for side in used for k, n in side.items() if k >= 0)
    kinds = {k for side in used for k in side if k >= 0}
    if not kinds:
        return ""
    if all(len(side) == 1 and -1 not in side for side in used) and len(kinds) == len(used):
        return (
            f"each side is one template ({_named(found, kinds)}): what differs may be "
            f"these wordings, not the conditions; write several templates a condition"
        )
    look = (
        f"{concerned} of {sum(map(len, rows))} prompts look like {plural(len(kinds), 'template')} "
        f"of {_fillings(used, kinds)} ({_named(found, kinds)}), which no column declares"
    )
    if naive_rate > alpha * NOTEWORTHY:
        return (
            f"{look}: a test that takes them for independent would call about {naive_rate:.0%} "
            f"of the units significant at {alpha:g} where none responds, where fillings of "
            f"one template correlate by {icc:.2g}; declare them in a column 'group'"
        )
    if naive_rate < alpha / NOTEWORTHY:
        return (
            f"{look}; they hold both conditions, so a test that takes them for independent misses "
            f"effects: declare them in a column 'item'"
        )
    return f"{look}; {OFF_BY_LITTLE}"


def _fillings(used: Sequence[Counter], kinds: set[int]) -> str:
    sizes = sorted({sum(side[k] for side in used) for k in kinds})
    return f"{sizes[0]} fillings" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} fillings"


def _named(found: Templates, kinds: set[int]) -> str:
    """The largest template of those, and two words that fill it."""
    largest = min(kinds)
    skeleton = _short(found.skeletons[largest])
    if largest or found.example is None:
        return f"such as {skeleton!r}"
    fillings = " / ".join(_short(words) or "nothing" for words in found.differing)
    if found.differing == ("", ""):
        return f"copies of {skeleton!r}"
    return f"such as {skeleton!r}: {fillings}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE].rstrip() + "…"


def unreachable(permutation: PermutationSummary | None, alpha: float) -> str:
    """A design with so few relabellings that nothing can be significant."""
    if permutation is None or permutation.smallest_p <= alpha:
        return ""
    return (
        f"{permutation.n_possible:,} relabellings allow no p below {permutation.smallest_p:.2g}: "
        f"nothing can be significant at {alpha:g}, however strong; write more prompts or groups"
    )

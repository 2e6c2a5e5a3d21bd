"""Does this analysis keep its error rates on these very activations?

Nulls are made of the recording itself (`null_designs`) and sent through the test and the control
that the user's contrast goes through. What comes out significant is false by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from activation_analysis.analyses.designs import Design
from activation_analysis.analyses.error_control import ErrorControl, controlled
from activation_analysis.analyses.null_designs import NULLS, NullDesigns, NullDraw, clusters_of
from activation_analysis.analyses.null_statistics import SITE, Excerpt, null_statistics
from activation_analysis.analyses.samples import Recording
from activation_analysis.results import StatMap
from activation_analysis.results.calibration import Calibration, ErrorRate, NullPValues, NullRates
from activation_analysis.statistics.calibration import (
    LEVELS,
    Rate,
    clopper_pearson,
    clustered_rate,
    counted_below,
    uniformity,
)
from activation_analysis.statistics.permutation import relabellings_of, unit_p_values
from activation_analysis.statistics.permutation_scores import Rows
from activation_analysis.statistics.screening import exclusion_reasons
from activation_analysis.statistics.unit_statistics import UnitStatistics

INNER_PERMUTATIONS = 199  # of control max_t in each repetition
FEWEST_REPETITIONS = 2


def calibrate(
    recording: Recording,
    design: Design,
    how: ErrorControl,
    *,
    n_relabellings: int = 100,
    rng: np.random.Generator,
    clusters: Sequence | np.ndarray | None = None,
    halves_of: int | None = None,
    n_units: int | None = None,
) -> Calibration:
    """Error rates of a design's test and control where nothing differs.

    Each kind of null is repeated ``n_relabellings`` times, or as often as there are distinct ones
    (halves of few clusters and signs of few clusters are enumerated: 10 clusters have 126 halves,
    4 have 3). Per repetition: the share of units with p <= alpha, whether anything is significant
    after the control, and the distribution of p. Intervals come from the spread between
    repetitions, since units are dependent.

    Under a full null every discovery is false: its proportion is 1 where there is any, so that
    its mean equals the family-wise rate. It says nothing of the proportion among true effects.

    Parameters
    ----------
    recording : Activations
        Kept, not streamed: rows are read by number.
    design : Design
        As the user's contrast is analysed, blocks and all.
    how : ErrorControl
        "max_t" is nested: ``min(n_permutations, 199)`` single-step permutations in each
        repetition; p-values per unit are then those of the permutations too.
    n_relabellings : int
        Repetitions of each null, at least 2.
    rng : np.random.Generator
    clusters : (n_prompts,) labels, or None
        What belongs together whether or not the design knows it: a declared group that the
        analysis ignores, near-duplicates. Joined with the design's blocks and pairs.
    halves_of : int, optional
        Condition that is divided; each in turn otherwise.
    n_units : int, optional
        So many units, drawn evenly over layers and sites; all of them otherwise.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        If there are fewer than two repetitions, no unit can be tested, or no null can be made.
    """
    if n_relabellings < FEWEST_REPETITIONS:
        raise ValueError(
            f"{n_relabellings} relabelling; a calibration needs at least 2, better 100"
        )
    excerpt, n_all = _excerpt(recording, design, n_units, rng)
    together = clusters_of(design, clusters, len(excerpt))
    inner = min(how.n_permutations, INNER_PERMUTATIONS) if how.control == "max_t" else 0
    how = replace(how, step_down=False, n_permutations=inner or how.n_permutations)
    nulls, skipped = [], {}
    for name, make in NULLS.items():
        try:
            made = make(design, together, n_relabellings, rng, halves_of)
            nulls.append(_rates(excerpt, name, made, how, rng))
        except ValueError as error:
            skipped[name] = str(error)
    if not nulls:
        reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        raise ValueError(f"no null can be made of this design ({reasons})")
    return Calibration(
        nulls=tuple(nulls),
        skipped=skipped,
        cells=excerpt.cells,
        test=design.test,
        control=how.control,
        alpha=how.alpha,
        n_units=excerpt.values.shape[1],
        n_all_units=n_all,
        n_permutations=inner,
    )


def _excerpt(
    recording: Recording, design: Design, n_units: int | None, rng: np.random.Generator
) -> tuple[Excerpt, int]:
    """The units, or some of every layer, less the unusable; and how many units there are."""
    addresses = [(site, int(k)) for site in recording.sites for k in recording.units(site).layers]
    parts, cells, n_all = [], [], 0
    quota = None if n_units is None else max(1, n_units // len(addresses))
    for number, (site, layer) in enumerate(addresses):
        x = np.asarray(recording.sample(np.arange(len(recording)), site, layer))
        n_all += x.shape[1]
        if quota is not None and quota < x.shape[1]:
            x = x[:, np.sort(rng.choice(x.shape[1], quota, replace=False))]
        usable = exclusion_reasons(*(x[rows] for rows in design.rows)) == ""
        parts.append(x[:, usable])
        cells.append(np.full(np.count_nonzero(usable), number))
    values = np.concatenate(parts, axis=1)
    if not values.shape[1]:
        raise ValueError("no unit of this recording can be tested, so nothing can be calibrated")
    named = pd.DataFrame(addresses, columns=["site", "layer"])
    return Excerpt(values, np.concatenate(cells), named, design.rows), n_all


def _rates(
    excerpt: Excerpt, name: str, made: NullDesigns, how: ErrorControl, rng: np.random.Generator
) -> NullRates:
    """All repetitions of one null."""
    n = len(made.draws)
    if n < FEWEST_REPETITIONS:
        raise ValueError(f"{n} repetition is all that there is; 2 are needed")
    rates, shares, found = np.empty(n), [], np.empty(n, dtype=int)
    hits = np.zeros(len(excerpt.cells))
    for i, (draw, result) in enumerate(null_statistics(excerpt, made.draws)):
        own = replace(how, seed=int(rng.integers(2**31)))
        p, n_found = _controlled(excerpt, draw, result, own)
        significant = p <= how.alpha
        rates[i], found[i] = significant.sum() / max(np.count_nonzero(~np.isnan(p)), 1), n_found
        shares.append(counted_below(p))
        hits += np.bincount(excerpt.cell, significant, minlength=len(hits))
    any_found = found > 0
    sizes = np.bincount(excerpt.cell, minlength=len(hits))
    return NullRates(
        null=name,
        n=n,
        n_possible=made.n_possible,
        n_clusters=made.n_clusters,
        alpha=how.alpha,
        fpr=_judged(clustered_rate(rates), how.alpha),
        family_wise=_judged(clopper_pearson(int(any_found.sum()), n), how.alpha),
        false_discovery=float(any_found.mean()),
        false_discovery_error=float(any_found.std(ddof=1) / np.sqrt(n)),
        n_found=float(np.median(found[any_found])) if any_found.any() else 0.0,
        p_values=_p_values(np.array(shares)),
        by_layer=np.divide(hits, n * sizes, out=np.full(len(hits), np.nan), where=sizes > 0),
    )


def _judged(rate: Rate, alpha: float) -> ErrorRate:
    return ErrorRate(rate.value, rate.low, rate.high, rate.verdict(alpha))


def _p_values(shares: np.ndarray) -> NullPValues:
    found = uniformity(shares)
    low, high = found.band()
    return NullPValues(LEVELS, found.share, low, high, found.histogram, found.distance)


def _controlled(
    excerpt: Excerpt, draw: NullDraw, result: UnitStatistics, how: ErrorControl
) -> tuple[np.ndarray, int]:
    """p of every unit before the control, and how many are significant after it."""
    design, nothing = draw.design, np.full(excerpt.n_units, np.nan)
    stat_map = StatMap(
        statistic=result.statistic,
        p_value=result.p_value,
        df=result.df,
        effect_size=nothing,
        hedges_g=nothing,
        mean_difference=nothing,
        excluded=np.where(np.isnan(result.statistic), "constant", ""),
        test=design.test,
        n=design.n,
        units=excerpt.units(SITE),
    )
    permutes = how.control == "max_t"
    seen = excerpt.under(draw) if permutes else excerpt
    adjusted = controlled(seen, [design], [{SITE: stat_map}], how).maps[0][SITE]
    p = _permuted_p(design.samples(seen, SITE, 0), design, how) if permutes else result.p_value
    return p, int(adjusted.significant.sum())


def _permuted_p(samples, design: Design, how: ErrorControl) -> np.ndarray:
    """Each unit's own permutation p, (n_units,): what max_t rests on."""
    permuted, rows = design.permuted(), Rows(samples)
    rng = np.random.default_rng(how.seed)
    relabellings = relabellings_of(permuted, how.n_permutations, rng=rng)
    return unit_p_values(rows, permuted, relabellings, permuted.statistic(rows))

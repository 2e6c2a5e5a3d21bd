"""Family-wise error control by permutation: could any unit be this extreme by chance?

Labels are shuffled over prompts, and the largest statistic over all units of each shuffle is
kept. A unit survives if few shuffles have any unit as extreme. The dependence between units
is respected as it is. `permuted_designs` says what each test shuffles, `null_maxima` does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log10

import numpy as np

from activation_analysis.statistics.moments import several_groups
from activation_analysis.statistics.null_maxima import (
    NullMaxima,
    Relabellings,
    available_cores,
)
from activation_analysis.statistics.permutation_scores import Rows, Score, blocks_of
from activation_analysis.statistics.permuted_designs import (
    DESIGNS,
    PermutedDesign,
    permuted_design,
)

# Sums of the same numbers in another order differ by rounding; such relabellings tie.
TIE_TOLERANCE = 1e-12
MOST_ENUMERATED = 1_000_000
STEPPED_UNITS = 2048  # most significant units that a step-down takes one by one
STEPPED_RELABELLINGS = 256  # whose scores of these are held at once
FAMILY_TESTS = tuple(DESIGNS)


@dataclass(frozen=True)
class MaxT:
    """Every unit against the largest statistic of every relabelling."""

    statistic: np.ndarray  # (n_units,) as observed, signed; NaN where not testable
    p_value: np.ndarray  # (n_units,) two-sided, family-wise
    n_permutations: int  # relabellings used; all of them, the observed one included, if exact
    exact: bool
    null_max: np.ndarray  # (n_permutations,) largest abs(statistic) of each relabelling
    n_possible: int  # relabellings that the design allows
    exchangeable: str  # what was shuffled: "free", "within", "whole", "signs"


@dataclass(frozen=True)
class UnitPermutation:
    """Every unit against its own relabellings: uncorrected."""

    statistic: np.ndarray  # (n_units,) as observed, signed; NaN where not testable
    p_value: np.ndarray  # (n_units,) two-sided, at least 1 / (n_permutations + 1)
    n_permutations: int
    exact: bool


def max_t(
    a: np.ndarray,
    b: np.ndarray,
    test: str = "student",
    n_permutations: int = 1000,
    step_down: bool = False,
    exact: bool | str = "auto",
    groups: Sequence | np.ndarray | None = None,
    nuisance: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
    *,
    n_threads: int | None = None,
) -> MaxT:
    """Max-T permutation test of every unit: which differ, at one error rate for all of them?

        p = (1 + number of relabellings with max over units of abs(t*) >= abs(t)) / (1 + B)

    and, where all B relabellings are enumerated, the observed one among them, p = number / B.

    With ``step_down``, a unit competes only with units that are no more significant than it is
    (Westfall-Young): never less powerful. Under unequal variances take ``test="welch"``, whose
    studentised statistic stays valid in large samples. p is at least 1 / (B + 1), whatever
    the effect: never correct these p-values once more.

    Parameters
    ----------
    a, b : (n_a, n_units) and (n_b, n_units)
        Activations of the two groups; aligned by row for "paired" and "wilcoxon".
    test : an entry of ``FAMILY_TESTS``
        "mannwhitney" compares the tie-corrected z without continuity.
    n_permutations : int
        Random relabellings, B.
    step_down : bool
        Westfall and Young's step-down p-values instead of single-step ones: exact for the 2048
        most significant units; those beyond compete with all beyond (conservative).
    exact : "auto", True or False
        Enumerate all relabellings: "auto" where they are at most ``n_permutations``.
    groups : (n_a + n_b,) labels, or (n_pairs,) for paired tests, optional
        Exchangeability block of every row, those of ``a`` first. Blocks that hold both
        conditions are shuffled within; blocks of one condition each are relabelled whole,
        among blocks of the same size. Pairs of one block are flipped together.
    nuisance : (n_a + n_b, k), optional
        Covariates to adjust for by Freedman and Lane's method (an intercept is implied);
        for ``test="student"``, which becomes the t of the regression. Relabellings are then
        permutations of residuals.
    rng : numpy.random.Generator, optional
        Seeded with 0 if left out.
    n_threads : int, optional
        All cores where left out; no number depends on it.

    Returns
    -------
    MaxT
        p-values are NaN where a unit has NaN, or nothing varies, or (but for tests of ranks,
        where it is the largest) a value is infinite; such a unit leaves the family.

    Raises
    ------
    ValueError
        If the groups do not match, an option is unknown, or nothing can be exchanged.

    References
    ----------
    Westfall & Young (1993), Resampling-Based Multiple Testing, algorithms 2.5 and 2.8.
    Nichols & Holmes (2002), Human Brain Mapping 15:1-25.
    Freedman & Lane (1983), Journal of Business & Economic Statistics 1:292-298.
    Phipson & Smyth (2010), Statistical Applications in Genetics and Molecular Biology 9:39.
    """
    return max_statistic(
        [a, b],
        test,
        n_permutations=n_permutations,
        step_down=step_down,
        exact=exact,
        groups=groups,
        nuisance=nuisance,
        rng=rng,
        n_threads=n_threads,
    )


def max_statistic(
    samples: Sequence[np.ndarray],
    test: str,
    *,
    n_permutations: int = 1000,
    step_down: bool = False,
    exact: bool | str = "auto",
    groups: Sequence | np.ndarray | None = None,
    nuisance: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
    n_threads: int | None = None,
) -> MaxT:
    """`max_t` for any number of groups: one for "one_sample", two or more for "f", "kruskal".

    Parameters
    ----------
    samples : matrices (n_k, n_units) of the same units

    The others, the result and the errors are those of `max_t`.
    """
    x, design, relabellings = _set_up(samples, test, n_permutations, exact, groups, nuisance, rng)
    n_threads = n_threads or available_cores()
    statistic = design.statistic(x, n_threads)
    size = design.score.of_statistic(statistic)  # NaN where not testable
    top = most_significant(size) if step_down else np.empty(0, dtype=int)
    apart = ~np.isnan(size)
    apart[top] = False
    null = NullMaxima(design.score, design.columns, relabellings, n_threads)
    null.add(x, apart)
    columns = design.columns.exact(x, top)
    rivals = (
        scores_of(design.score, relabellings, columns, some)
        for some in blocks_of(len(relabellings), STEPPED_RELABELLINGS)
    )
    p_value, largest = family_p_values(size, top, rivals, null.largest, relabellings.exact)
    return MaxT(
        statistic=statistic,
        p_value=p_value,
        n_permutations=len(relabellings),
        exact=relabellings.exact,
        null_max=design.score.as_statistic(largest),
        n_possible=relabellings.n_possible,
        exchangeable=design.atoms.kind,
    )


def unit_permutation(
    samples: Sequence[np.ndarray],
    test: str = "student",
    *,
    n_permutations: int = 1000,
    exact: bool | str = "auto",
    groups: Sequence | np.ndarray | None = None,
    nuisance: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
) -> UnitPermutation:
    """Permutation test of every unit by itself: p before any correction over units.

        p = (1 + number of relabellings with abs(t*) >= abs(t)) / (1 + B), or number / B if exact

    Correcting such p-values over many units needs more relabellings than units / alpha.

    Parameters, result and errors as `max_statistic`.
    """
    x, design, relabellings = _set_up(samples, test, n_permutations, exact, groups, nuisance, rng)
    statistic = design.statistic(x)
    p_value = unit_p_values(x, design, relabellings, statistic)
    return UnitPermutation(statistic, p_value, len(relabellings), relabellings.exact)


def unit_p_values(
    x: Rows, design: PermutedDesign, relabellings: Relabellings, statistic: np.ndarray
) -> np.ndarray:
    """Each unit's own permutation p, (n_units,); NaN where its ``statistic`` is."""
    threshold = _threshold(design.score.of_statistic(statistic))  # NaN where not testable
    counts = np.zeros(len(statistic), dtype=np.int64)
    for units in blocks_of(len(statistic), 256):
        columns = design.columns.exact(x, units)
        for some in blocks_of(len(relabellings), 1000):
            values = scores_of(design.score, relabellings, columns, some)
            counts[units] += (values >= threshold[units]).sum(axis=0)
    p_value = _shares(counts, len(relabellings), relabellings.exact)
    return np.where(np.isnan(statistic), np.nan, p_value)


def family_p_values(
    size: np.ndarray,
    top: np.ndarray,
    rivals: Iterable[np.ndarray],
    beyond: np.ndarray,
    exact: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Family-wise p of every unit, and the maxima over all of them.

    Units of ``top`` are stepped down one by one; the others compete with one another, and are
    never more certain than those.

    Parameters
    ----------
    size : (n_units,) observed scores, or statistics; NaN where not testable
    top : the most significant units, the least of them first; none for single-step p-values
    rivals : blocks (n_some, n_top) of what these units reach, one relabelling after the other
    beyond : (n_relabellings,) largest score of all other units
    exact : whether the relabellings are all that there are, the observed one among them
    """
    p_value = counted(size, beyond, exact)
    if not len(top):
        return p_value, beyond
    stepped, largest = _stepped_down(size[top], rivals, beyond, exact)
    p_value = np.maximum(p_value, stepped.max())
    p_value[top] = stepped
    return p_value, largest


def counted(size: np.ndarray, largest: np.ndarray, exact: bool) -> np.ndarray:
    """Single-step p of scores, from the largest score of every relabelling; NaN where NaN."""
    at_least = len(largest) - np.searchsorted(np.sort(largest), _threshold(size), side="left")
    return np.where(np.isnan(size), np.nan, _shares(at_least, len(largest), exact))


def most_significant(size: np.ndarray, n: int = STEPPED_UNITS) -> np.ndarray:
    """Where the ``n`` largest are, the least of them first; NaN never."""
    order = np.argsort(size, kind="stable")
    order = order[~np.isnan(size[order])]
    return order[max(len(order) - n, 0) :]


def relabellings_of(
    design: PermutedDesign,
    n_permutations: int,
    *,
    exact: bool | str = "auto",
    keys: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
) -> Relabellings:
    """All relabellings where they are few, else random ones.

    Parameters
    ----------
    keys : (n_permutations, n) random keys in 0..1 of every row, where contrasts share them;
        drawn from ``rng`` where left out
    """
    n_possible = design.n_possible
    exact = n_possible <= n_permutations if exact == "auto" else bool(exact)
    if exact and n_possible > MOST_ENUMERATED:
        raise ValueError(
            f"exact=True would enumerate about 10^{int(log10(n_possible))} relabellings, and "
            f"{MOST_ENUMERATED:,} is the most; leave exact at 'auto' to draw {n_permutations:,}"
        )
    if exact:
        return Relabellings(design.every(), design.flips, True, n_possible)
    if keys is None:
        rng = np.random.default_rng(0) if rng is None else rng
        keys = rng.random((n_permutations, design.n_keys))
    return Relabellings(design.placed(keys), design.flips, False, n_possible)


def _set_up(
    samples, test, n_permutations, exact, groups, nuisance, rng
) -> tuple[Rows, PermutedDesign, Relabellings]:
    if n_permutations < 1:
        raise ValueError(f"n_permutations is {n_permutations}; at least 1, usually 1000 or more")
    if exact not in ("auto", True, False):
        raise ValueError(f"exact is {exact!r}; 'auto', True or False")
    samples = several_groups(samples, at_least=1)
    design = permuted_design([len(s) for s in samples], test, groups=groups, nuisance=nuisance)
    return Rows(samples), design, relabellings_of(design, n_permutations, exact=exact, rng=rng)


def _threshold(size: np.ndarray) -> np.ndarray:
    return size - TIE_TOLERANCE * (1 + np.abs(size))


def _shares(counts: np.ndarray, n: int, exact: bool) -> np.ndarray:
    # Of all relabellings the observed one is among them, even where rounding hides it.
    return np.maximum(counts, 1) / n if exact else (counts + 1) / (n + 1)


def _stepped_down(
    size: np.ndarray, rivals: Iterable[np.ndarray], beyond: np.ndarray, exact: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Step-down p of the most significant units, and the maxima over these and all beyond."""
    threshold, counts = _threshold(size), np.zeros(len(size), dtype=np.int64)
    largest, start = beyond.copy(), 0
    for values in rivals:
        some = slice(start, start + len(values))
        start = some.stop
        # One unit a row: a running maximum over rows works on whole vectors.
        reached = np.ascontiguousarray(values.T)
        np.maximum(reached[0], largest[some], out=reached[0])
        for less, more in pairwise(reached):
            np.maximum(less, more, out=more)
        counts += (reached >= threshold[:, None]).sum(axis=1)
        largest[some] = reached[-1]
    p_value = _shares(counts, len(largest), exact)
    # No unit is more certain than one that is more significant.
    return np.maximum.accumulate(p_value[::-1])[::-1], largest


def scores_of(
    score: Score, relabellings: Relabellings, columns: np.ndarray, some: slice
) -> np.ndarray:
    """Float64 scores of some relabellings of whole columns, (n_some, n_columns)."""
    products = [
        relabellings.of(vector, some) @ (np.square(columns) if of_squares else columns)
        for vector, of_squares in zip(score.vectors, score.squared, strict=True)
    ]
    return score(products)

"""Family-wise error control by permutation: could any unit be this extreme by chance?

Labels are shuffled over prompts, and the largest statistic over all units of each shuffle is
kept. A unit survives if few shuffles have any unit as extreme. The dependence between units
is respected as it is. All relabellings of a block of units are one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from activation_analysis.statistics.exchangeability import exchangeability, permuted_rows
from activation_analysis.statistics.hypothesis_tests import student_t, welch_t
from activation_analysis.statistics.moments import two_groups
from activation_analysis.statistics.permutation_scores import (
    AdjustedScores,
    StudentScores,
    WelchScores,
)

BLOCK_UNITS = 1024  # units x permutations held at once: 2 MiB, so that one block stays in cache
BLOCK_PERMUTATIONS = 256
# Sums of the same numbers in another order differ by rounding; such relabellings tie.
TIE_TOLERANCE = 1e-12
FAMILY_TESTS = {"student": (student_t, StudentScores), "welch": (welch_t, WelchScores)}


@dataclass(frozen=True)
class MaxT:
    """Every unit against the largest statistic of every relabelling."""

    statistic: np.ndarray  # (n_units,) as observed, signed; NaN where not testable
    p_value: np.ndarray  # (n_units,) two-sided, family-wise
    p_uncorrected: np.ndarray  # (n_units,) two-sided, each unit against its own relabellings
    n_permutations: int  # relabellings used; all of them, the observed one included, if exact
    exact: bool
    null_max: np.ndarray  # (n_permutations,) largest abs(statistic) of each relabelling


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
        Activations of the two groups.
    test : "student" or "welch"
    n_permutations : int
        Random relabellings, B.
    step_down : bool
        Westfall and Young's step-down p-values instead of single-step ones.
    exact : "auto", True or False
        Enumerate all relabellings: "auto" where they are at most ``n_permutations``.
    groups : (n_a + n_b,) labels, optional
        Exchangeability block of every row, those of ``a`` first. Blocks that hold both
        conditions are shuffled within; blocks of one condition each are relabelled whole,
        among blocks of the same size.
    nuisance : (n_a + n_b, k), optional
        Covariates to adjust for by Freedman and Lane's method (an intercept is implied);
        for ``test="student"``, which becomes the t of the regression. Relabellings are then
        permutations of residuals, always drawn.
    rng : numpy.random.Generator, optional
        Seeded with 0 if left out.

    Returns
    -------
    MaxT
        p-values are NaN where a unit has NaN or inf, or nothing varies; such a unit leaves
        the family.

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
    a, b = two_groups(a, b)
    _check_options(test, n_permutations, exact, nuisance)
    rng = np.random.default_rng(0) if rng is None else rng
    in_first = np.arange(len(a) + len(b)) < len(a)
    atoms = exchangeability(in_first, groups)
    if nuisance is None:
        observed_test, scores_of = FAMILY_TESTS[test]
        scores, statistic = scores_of(a, b), observed_test(a, b).statistic
        exact = atoms.n_relabellings <= n_permutations if exact == "auto" else bool(exact)
        shuffles = atoms.enumerate() if exact else atoms.draw(n_permutations, rng)
        observed = in_first[None]
    else:
        scores = AdjustedScores(a, b, in_first, _covariates(nuisance, len(in_first)))
        statistic, exact = scores.statistic(), False
        shuffles = permuted_rows(atoms, n_permutations, rng)
        observed = np.arange(len(in_first))[None]
    testable = np.flatnonzero(~np.isnan(statistic))
    counted = _count(scores, testable, observed, shuffles, step_down)
    already = 0 if exact else 1  # the observed labelling, unless it is among the enumerated
    p_value, p_uncorrected = np.full((2, len(statistic)), np.nan)
    p_value[testable] = (counted.family + already) / (len(shuffles) + already)
    p_uncorrected[testable] = (counted.unit + already) / (len(shuffles) + already)
    null_max = scores.as_statistic(counted.largest)
    return MaxT(statistic, p_value, p_uncorrected, len(shuffles), exact, null_max)


@dataclass(frozen=True)
class _Counts:
    family: np.ndarray  # (n_testable,) relabellings with any competitor as extreme
    unit: np.ndarray  # (n_testable,) relabellings with this unit as extreme
    largest: np.ndarray  # (n_shuffles,) largest score of each relabelling


def _count(scores, testable, observed, shuffles, step_down: bool) -> _Counts:
    """How many relabellings are as extreme, one block of units x relabellings at a time."""
    size = np.zeros(len(testable))
    for block in _blocks(len(testable), BLOCK_UNITS):
        size[block] = scores(observed, scores.columns(testable[block]))[0]
    threshold = size - TIE_TOLERANCE * (1 + size)
    least_first = np.argsort(size, kind="stable")
    family, unit = np.zeros((2, len(testable)), dtype=np.int64)
    largest = np.zeros(len(shuffles))  # so far: units no more significant than this block's last
    for block in _blocks(len(testable), BLOCK_UNITS):
        members = least_first[block]
        columns = scores.columns(testable[members])
        for some in _blocks(len(shuffles), BLOCK_PERMUTATIONS):
            values = scores(shuffles[some], columns)
            unit[members] += (values >= threshold[members]).sum(axis=0)
            if step_down:
                np.maximum(values[:, 0], largest[some], out=values[:, 0])
                np.maximum.accumulate(values, axis=1, out=values)
                family[members] += (values >= threshold[members]).sum(axis=0)
                largest[some] = values[:, -1]
            else:
                np.maximum(largest[some], values.max(axis=1), out=largest[some])
    if step_down:
        most_first = least_first[::-1]
        family[most_first] = np.maximum.accumulate(family[most_first])
    else:
        family = len(shuffles) - np.searchsorted(np.sort(largest), threshold, side="left")
    return _Counts(family, unit, largest)


def _blocks(n: int, width: int) -> Iterator[slice]:
    return (slice(start, min(start + width, n)) for start in range(0, n, width))


def _check_options(test, n_permutations, exact, nuisance) -> None:
    if test not in FAMILY_TESTS:
        raise ValueError(f"no permutation test {test!r}; known: {', '.join(FAMILY_TESTS)}")
    if n_permutations < 1:
        raise ValueError(f"n_permutations is {n_permutations}; at least 1, usually 1000 or more")
    if exact not in ("auto", True, False):
        raise ValueError(f"exact is {exact!r}; 'auto', True or False")
    if nuisance is not None and test != "student":
        raise ValueError(f"nuisance covariates go with test='student', received {test!r}")
    if nuisance is not None and exact is True:
        raise ValueError("residuals are permuted, never enumerated; leave exact at 'auto'")


def _covariates(nuisance: np.ndarray, n: int) -> np.ndarray:
    covariates = np.asarray(nuisance, dtype=np.float64)
    covariates = covariates[:, None] if covariates.ndim == 1 else covariates
    if covariates.ndim != 2 or len(covariates) != n:
        raise ValueError(
            f"nuisance has shape {np.shape(nuisance)}; expected one row per prompt, ({n}, k): "
            f"those of the first group, then those of the second"
        )
    if not np.isfinite(covariates).all():
        raise ValueError("nuisance holds NaN or inf; leave out those prompts or covariates")
    return covariates

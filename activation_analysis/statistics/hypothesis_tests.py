"""Two-group tests of every unit at once: does this unit respond differently?

Each function takes (n_a, n_units) and (n_b, n_units) and answers per unit. ``TESTS`` names
them; a new test is a function here and its line there. Those in ``MOMENT_TESTS`` take Moments
of the two groups as well, for activations that streamed past and were not kept.

The prompt (or its group mean) is the unit of analysis: rows that are tokens of one prompt, or
fillings of one template, are not independent, and none of these tests is right for them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from activation_analysis.statistics.anova import one_way_f
from activation_analysis.statistics.linear_model import adjusted_f, weighted_t
from activation_analysis.statistics.moments import (
    Sample,
    column_blocks,
    constant,
    float64_block,
    mean_difference,
    moments,
    pairs,
    pooled_variance,
    several_groups,
    two_groups,
    two_moments,
)
from activation_analysis.statistics.rank_tests import (
    brunner_munzel,
    kruskal_wallis,
    wilcoxon_signed_rank,
)
from activation_analysis.statistics.ranks import EXACT_UP_TO, rank_sums, rank_test_p_values
from activation_analysis.statistics.unit_statistics import UnitStatistics, t_statistics


def student_t(a: Sample, b: Sample) -> UnitStatistics:
    """Student's t-test of every unit: do the means of two groups differ?

        t = (mean(a) - mean(b)) / sqrt(s2 * (1/n_a + 1/n_b)),  df = n_a + n_b - 2
        s2 = (ss(a) + ss(b)) / df

    Positive where ``a`` responds more. Not for groups that differ both in size and in
    variance: at 20 against 60 prompts with SDs 3:1 it is wrong in 20 % of null units; use
    ``welch_t``.

    Parameters
    ----------
    a, b : (n_a, n_units) and (n_b, n_units), or Moments of both
        Activations of the two groups, in the model's own units.

    Returns
    -------
    UnitStatistics
        ``statistic``, two-sided ``p_value`` and ``df``, each (n_units,);
        NaN where a unit has NaN or inf, or is constant in both groups.

    Raises
    ------
    ValueError
        If a group has fewer than two prompts, or the units do not match.

    References
    ----------
    Student (1908), Biometrika 6:1-25.
    """
    in_a, in_b = two_moments(a, b)
    squared_error = pooled_variance(in_a, in_b) * (1 / in_a.n + 1 / in_b.n)
    df = np.full(in_a.n_units, float(in_a.n + in_b.n - 2))
    return t_statistics(mean_difference(in_a, in_b), squared_error, df)


def welch_t(a: Sample, b: Sample) -> UnitStatistics:
    """Welch's t-test of every unit: do the means of two groups differ?

        t = (mean(a) - mean(b)) / sqrt(var(a)/n_a + var(b)/n_b)
        df = 1 / (c^2/(n_a - 1) + (1 - c)^2/(n_b - 1)),  c = the share of var(a)/n_a

    Does not assume equal variances. Positive where ``a`` responds more.

    Parameters
    ----------
    a, b : (n_a, n_units) and (n_b, n_units), or Moments of both
        Activations of the two groups, in the model's own units.

    Returns
    -------
    UnitStatistics
        ``statistic``, two-sided ``p_value`` and Satterthwaite's ``df``, each (n_units,);
        NaN where a unit has NaN or inf, or is constant in both groups.

    Raises
    ------
    ValueError
        If a group has fewer than two prompts, or the units do not match.

    References
    ----------
    Welch (1947), Biometrika 34:28-35.
    """
    in_a, in_b = two_moments(a, b)
    error_a, error_b = in_a.variance / in_a.n, in_b.variance / in_b.n
    error = error_a + error_b
    with np.errstate(invalid="ignore", divide="ignore"):
        df = 1 / ((error_a / error) ** 2 / (in_a.n - 1) + (error_b / error) ** 2 / (in_b.n - 1))
    return t_statistics(mean_difference(in_a, in_b), error, df)


def paired_t(a: np.ndarray, b: np.ndarray) -> UnitStatistics:
    """Paired t-test of every unit: does the response change within a pair?

        t = mean(a - b) / (sd(a - b) / sqrt(n)),  df = n - 1

    Row i of ``a`` and row i of ``b`` are the two prompts of one item (a minimal pair).
    Positive where ``a`` responds more. Not for prompts that merely stand in the same order.

    Parameters
    ----------
    a, b : (n, n_units) each
        Activations of the two groups, aligned by item.

    Returns
    -------
    UnitStatistics
        ``statistic``, two-sided ``p_value`` and ``df``, each (n_units,);
        NaN where a unit has NaN or inf, or the same difference in every pair.

    Raises
    ------
    ValueError
        If the groups differ in size, have fewer than two pairs, or the units do not match.

    References
    ----------
    Student (1908), Biometrika 6:1-25.
    """
    a, b = pairs(a, b)
    within = moments(pair_differences(a, b))
    df = np.full(a.shape[1], float(within.n - 1))
    return t_statistics(within.mean, within.variance / within.n, df)


def mann_whitney_u(
    a: np.ndarray, b: np.ndarray, *, exact_up_to: int = EXACT_UP_TO
) -> UnitStatistics:
    """Mann-Whitney U test of every unit: does one group tend to larger values?

        U = sum(ranks of a) - n_a * (n_a + 1) / 2

    ``U / (n_a * n_b)`` is the chance that a random prompt of ``a`` responds more than one of
    ``b`` (ties count half); above a half, ``a`` responds more. Ties share their mean rank.
    The p-value is exact where a unit has no ties and a group has few prompts, decided unit by
    unit; otherwise it is the normal approximation with tie and continuity
    correction, as in R and scipy. An infinite value ranks as the largest.

    Not a test of means or medians where the two distributions differ in shape.

    Parameters
    ----------
    a, b : (n_a, n_units) and (n_b, n_units)
        Activations of the two groups.
    exact_up_to : int
        Prompts in the smaller group up to which p is exact; 0: the normal approximation always.

    Returns
    -------
    UnitStatistics
        ``statistic`` (U of ``a``) and two-sided ``p_value``, each (n_units,); ``df`` is NaN.
        NaN where a unit has NaN or is constant in both groups.

    Raises
    ------
    ValueError
        If a group has fewer than two prompts, or the units do not match.

    References
    ----------
    Mann & Whitney (1947), Annals of Mathematical Statistics 18:50-60.
    """
    a, b = two_groups(a, b)
    sums = rank_sums(a, b)
    u = sums.first - len(a) * (len(a) + 1) / 2
    p_value = rank_test_p_values(u, sums.tie_term, len(a), len(b), exact_up_to)
    undefined = np.isnan(u) | (constant(a) & constant(b))
    u, p_value = np.where(undefined, np.nan, u), np.where(undefined, np.nan, p_value)
    return UnitStatistics(u, p_value, np.full(len(u), np.nan))


def one_sample_t(x: np.ndarray, mean: float = 0.0) -> UnitStatistics:
    """One-sample t-test of every unit: does its mean differ from a given value?

        t = (mean(x) - mean) / (sd(x) / sqrt(n)),  df = n - 1

    Activations have no natural zero at most sites: for differences, or z-scores.

    Parameters
    ----------
    x : (n, n_units)
    mean : float
        What the mean is under the null hypothesis.

    Returns
    -------
    UnitStatistics
        NaN where a unit has NaN or inf, or does not vary.

    Raises
    ------
    ValueError
        If there are fewer than two prompts.

    References
    ----------
    Student (1908), Biometrika 6:1-25.
    """
    (x,) = several_groups([x], at_least=1)
    if np.ndim(mean) != 0:
        raise ValueError(f"mean has shape {np.shape(mean)}; one number, or use a paired test")
    within = moments(x)
    df = np.full(within.n_units, float(within.n - 1))
    difference = (within.origin - mean) + within.offset
    return t_statistics(difference, within.variance / within.n, df)


def glm_t(a: np.ndarray, b: np.ndarray, nuisance: np.ndarray | None = None) -> UnitStatistics:
    """t of the condition in a regression with covariates (ANCOVA): Student's t without any.

    Parameters
    ----------
    a, b : (n_a, n_units) and (n_b, n_units)
    nuisance : (n_a + n_b, k), those of ``a`` first; an intercept is implied

    Returns
    -------
    UnitStatistics
        df = n_a + n_b - 2 - rank of the covariates.

    Raises
    ------
    ValueError
        If the covariates determine the condition, or the groups do not match.
    """
    if nuisance is None:
        return student_t(a, b)
    return weighted_t(two_groups(a, b), (1.0, -1.0), nuisance)


def glm_f(*groups: np.ndarray, nuisance: np.ndarray | None = None) -> UnitStatistics:
    """F of any difference among conditions in a regression with covariates: `one_way_f` without.

    Parameters, result and errors as `glm_t`, for two groups or more.
    """
    return one_way_f(*groups) if nuisance is None else adjusted_f(several_groups(groups), nuisance)


TESTS: dict[str, Callable[..., UnitStatistics]] = {
    "student": student_t,
    "welch": welch_t,
    "paired": paired_t,
    "one_sample": one_sample_t,
    "mannwhitney": mann_whitney_u,
    "wilcoxon": wilcoxon_signed_rank,
    "brunnermunzel": brunner_munzel,
    "f": one_way_f,
    "kruskal": kruskal_wallis,
    "glm_t": glm_t,
    "glm_f": glm_f,
}
PAIRED_TESTS = ("paired", "wilcoxon")
ONE_SAMPLE_TESTS = ("one_sample",)
OMNIBUS_TESTS = ("f", "kruskal", "glm_f")
MOMENT_TESTS = ("student", "welch", "f")  # those that need no more than Moments of the groups
MEAN_TESTS = (*MOMENT_TESTS, "glm_t", "glm_f")  # and those that do not without covariates
CONTRAST_TESTS = tuple(t for t in TESTS if t not in ONE_SAMPLE_TESTS)
TEST_ALIASES = {
    "ttest": "student",
    "one-sample": "one_sample",
    "F": "f",
    "anova": "f",
    "glm": "glm_t",
}


def canonical_test(name: str) -> str:
    """The entry of ``TESTS`` that ``name`` means, or a ValueError that lists the known ones."""
    test = TEST_ALIASES.get(name, name)
    if test not in TESTS:
        aliases = ", ".join(f"{alias!r} for {known}" for alias, known in TEST_ALIASES.items())
        raise ValueError(f"no test {name!r}; known: {', '.join(TESTS)} (and {aliases})")
    return test


def pair_differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a - b in float64 whatever the input dtype, (n, n_units)."""
    differences = np.empty(a.shape)
    with np.errstate(invalid="ignore"):
        for columns in column_blocks(len(a), a.shape[1]):
            differences[:, columns] = float64_block(a, columns) - float64_block(b, columns)
    return differences

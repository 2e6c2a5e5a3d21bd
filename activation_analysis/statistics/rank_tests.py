"""Rank tests beside Mann and Whitney's: several conditions, pairs, unequal spread."""

from __future__ import annotations

from functools import lru_cache
from math import comb

import numpy as np
from scipy.special import chdtrc, ndtr, stdtr, stdtrit

from activation_analysis.statistics.moments import (
    column_blocks,
    constant,
    pairs,
    several_groups,
    two_groups,
)
from activation_analysis.statistics.ranks import midranks, placements
from activation_analysis.statistics.unit_statistics import UnitStatistics

EXACT_PAIRS = 50  # pairs up to which the signed-rank test is exact, as in R and scipy


def kruskal_wallis(*groups: np.ndarray) -> UnitStatistics:
    """Kruskal-Wallis H test of every unit: does any condition tend to larger values?

        H = (N - 1) * between-condition sum of squares of the midranks / their total

    which is H with the correction for ties. p from chi-square with K - 1 df: with fewer than
    five prompts a condition, take a permutation test. An infinite value ranks as the largest.

    Parameters
    ----------
    groups : matrices (n_k, n_units) of two conditions or more

    Returns
    -------
    UnitStatistics
        ``df`` = K - 1. NaN where a unit has NaN, or is constant in every condition.

    Raises
    ------
    ValueError
        If a condition has fewer than two prompts, or the units do not match.

    References
    ----------
    Kruskal & Wallis (1952), JASA 47:583-621.
    """
    groups = several_groups(groups)
    n, n_units = sum(map(len, groups)), groups[0].shape[1]
    ends = np.cumsum([len(g) for g in groups])[:-1]
    h = np.empty(n_units)
    for units in column_blocks(n, n_units):
        pooled = np.concatenate([g[:, units] for g in groups])
        ranks = midranks(pooled) - (n + 1) / 2
        between = sum(part.sum(axis=0) ** 2 / len(part) for part in np.split(ranks, ends))
        with np.errstate(invalid="ignore", divide="ignore"):
            h[units] = (n - 1) * between / np.square(ranks).sum(axis=0)
    h[np.all([constant(g) for g in groups], axis=0)] = np.nan
    df = np.where(np.isnan(h), np.nan, len(groups) - 1.0)
    return UnitStatistics(h, chdtrc(len(groups) - 1, h), df)


def wilcoxon_signed_rank(a: np.ndarray, b: np.ndarray) -> UnitStatistics:
    """Wilcoxon signed-rank test of every unit: are differences within pairs symmetric around 0?

        V = sum of the ranks of abs(a - b) over pairs with a > b

    Pairs without a difference are left out, unit by unit. p is exact where a unit has 50 pairs
    or fewer, no tie and no such pair; otherwise it is the normal approximation with tie and
    continuity correction. Both as R's ``wilcox.test``.

    Parameters
    ----------
    a, b : (n, n_units) each
        Activations of the two groups, aligned by item.

    Returns
    -------
    UnitStatistics
        ``statistic`` (V) and two-sided ``p_value``; ``df`` is NaN. NaN where a unit has NaN or
        inf, or no difference in any pair.

    Raises
    ------
    ValueError
        If the groups differ in size or units, or have fewer than two pairs.

    References
    ----------
    Wilcoxon (1945), Biometrics Bulletin 1:80-83; Pratt (1959), JASA 54:655-667.
    """
    a, b = pairs(a, b)
    n, n_units = a.shape
    v, p_value = np.empty((2, n_units))
    for units in column_blocks(n, n_units):
        with np.errstate(invalid="ignore"):
            d = np.subtract(a[:, units], b[:, units], dtype=np.float64)
        zero = d == 0
        kept = n - zero.sum(axis=0)
        ranks = np.where(zero, 0.0, midranks(np.abs(d)) - zero.sum(axis=0))
        v[units] = (ranks * (d > 0)).sum(axis=0)
        # Squared midranks fall short of squared ranks by sum(t^3 - t) / 12.
        squares = np.square(ranks).sum(axis=0)
        mean = kept * (kept + 1) / 4
        with np.errstate(invalid="ignore", divide="ignore"):
            z = np.maximum(np.abs(v[units] - mean) - 0.5, 0) / np.sqrt(squares / 4)
        p_value[units] = np.minimum(2 * ndtr(-z), 1)
        untied = squares == kept * (kept + 1) * (2 * kept + 1) / 6
        exact = untied & (kept == n) if n <= EXACT_PAIRS else np.zeros_like(untied)
        at = np.flatnonzero(exact) + units.start
        far = np.maximum(v[at], n * (n + 1) / 2 - v[at]).astype(int)
        p_value[at] = np.minimum(2 * signed_rank_tail(n)[far], 1)
        undefined = ~np.isfinite(d).all(axis=0) | (kept == 0)
        v[units][undefined], p_value[units][undefined] = np.nan, np.nan
    return UnitStatistics(v, p_value, np.full(n_units, np.nan))


def brunner_munzel(a: np.ndarray, b: np.ndarray) -> UnitStatistics:
    """Brunner-Munzel test of every unit: is a value of one group as often above as below?

        p_hat = P(a > b) + P(a = b) / 2,  W = (p_hat - 1/2) over its standard error, df as Welch's

    As Mann and Whitney's, but valid where the groups differ in spread or shape. Positive where
    ``a`` responds more. Where no value of one group lies within the other, the standard error is
    0: p is then the exact 2 / choose(n_a + n_b, n_a) of complete separation, and W the quantile
    that it stands for, with df = n_a + n_b - 2. Below about ten prompts a group it is too
    liberal; take a permutation test.

    Parameters
    ----------
    a, b : (n_a, n_units) and (n_b, n_units)

    Returns
    -------
    UnitStatistics
        NaN where a unit has NaN, or is constant in both groups.

    Raises
    ------
    ValueError
        If a group has fewer than two prompts, or the units do not match.

    References
    ----------
    Brunner & Munzel (2000), Biometrical Journal 42:17-25.
    """
    a, b = two_groups(a, b)
    n_a, n_b, n_units = len(a), len(b), a.shape[1]
    w, df = np.empty((2, n_units))
    for units in column_blocks(n_a + n_b, n_units):
        over_b, over_a = placements(np.concatenate([a[:, units], b[:, units]]), n_a)
        v_a, v_b = _n_times_variance(over_b), _n_times_variance(over_a)
        # Sums of halves are exact: n_a n_b times p_hat - 1/2.
        lead = over_b.sum(axis=0) - n_a * n_b / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            w[units] = lead / np.sqrt(v_a + v_b)
            df[units] = (v_a + v_b) ** 2 / (v_a**2 / (n_a - 1) + v_b**2 / (n_b - 1))
    apart = np.isinf(w)
    df[apart] = n_a + n_b - 2
    p_value = 2 * stdtr(df, -np.abs(w))
    p_value[apart] = 2 / comb(n_a + n_b, n_a)
    w[apart] = np.sign(w[apart]) * -stdtrit(n_a + n_b - 2, 1 / comb(n_a + n_b, n_a))
    undefined = np.isnan(w) | (constant(a) & constant(b))
    return UnitStatistics(*(np.where(undefined, np.nan, x) for x in (w, p_value, df)))


def _n_times_variance(ranks: np.ndarray) -> np.ndarray:
    """n times the sample variance, in halves that add up exactly: no bit depends on the order."""
    ranks = ranks - ranks[0]
    total, squares = ranks.sum(axis=0), np.square(ranks).sum(axis=0)
    return (len(ranks) * squares - total**2) / (len(ranks) - 1)


@lru_cache(maxsize=64)
def signed_rank_tail(n: int) -> np.ndarray:
    """P(V >= v) for v = 0..n(n+1)/2 without ties, from exact integer counts."""
    counts = [1] + [0] * (n * (n + 1) // 2)
    for rank in range(1, n + 1):
        for v in range(len(counts) - 1, rank - 1, -1):
            counts[v] += counts[v - rank]
    tail, so_far = [], 0
    for count in reversed(counts):
        so_far += count
        tail.append(so_far / 2**n)
    return np.array(tail[::-1])

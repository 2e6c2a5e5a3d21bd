"""Rank sums of every unit, and the null distribution of the Mann-Whitney U.

Ranks come from one argsort per unit, done for a block of units at a time; only units that
have ties pay for midranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
from scipy.special import ndtr

from activation_analysis.statistics.moments import column_blocks

EXACT_UP_TO = 8  # prompts in the smaller group, as scipy's method="auto"


@dataclass(frozen=True)
class RankSums:
    """What a two-group rank test needs to know of every unit."""

    first: np.ndarray  # (n_units,) sum of the first group's midranks; NaN where a value is NaN
    tie_term: np.ndarray  # (n_units,) sum of t^3 - t over runs of t equal values; 0 without ties


def rank_sums(a: np.ndarray, b: np.ndarray) -> RankSums:
    """Rank the pooled values of every unit and sum the ranks of ``a``.

    Parameters
    ----------
    a, b : (n_a, n_units) and (n_b, n_units)

    Returns
    -------
    RankSums
    """
    n, n_units = len(a) + len(b), a.shape[1]
    first, tie_term = np.empty(n_units), np.zeros(n_units)
    ranks = np.arange(1.0, n + 1)
    for columns in column_blocks(n, n_units):
        # One unit per row, contiguous: a sort along axis 0 would stride through memory.
        pooled = np.ascontiguousarray(np.concatenate([a[:, columns], b[:, columns]]).T)
        order = np.argsort(pooled, axis=1)
        ascending = np.take_along_axis(pooled, order, axis=1)
        of_first = order < len(a)
        first[columns] = of_first @ ranks
        same_as_before = ascending[:, 1:] == ascending[:, :-1]
        tied = np.flatnonzero(same_as_before.any(axis=1))
        if len(tied):
            midranks, run_length = _midranks(same_as_before[tied])
            first[columns.start + tied] = (midranks * of_first[tied]).sum(axis=1)
            tie_term[columns.start + tied] = (run_length**2 - 1.0).sum(axis=1)
        first[columns][np.isnan(ascending[:, -1])] = np.nan  # NaN sorts last
    return RankSums(first, tie_term)


def _midranks(same_as_before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean rank and length of the run of equal values that each sorted value is in."""
    n_units, n = same_as_before.shape[0], same_as_before.shape[1] + 1
    position = np.arange(n)
    edge = np.ones((n_units, 1), dtype=bool)
    starts = np.where(np.hstack([edge, ~same_as_before]), position, 0)
    ends = np.where(np.hstack([~same_as_before, edge]), position, n - 1)
    start = np.maximum.accumulate(starts, axis=1)
    end = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    return (start + end) / 2 + 1, end - start + 1


def rank_test_p_values(u: np.ndarray, tie_term: np.ndarray, n_a: int, n_b: int) -> np.ndarray:
    """Two-sided p-value of U: exact for small groups without ties, else normal, per unit.

        z = (abs(U - m) - 1/2) / sqrt(n_a n_b / 12 * (n + 1 - ties / (n (n - 1)))),  m = n_a n_b / 2

    Parameters
    ----------
    u, tie_term : (n_units,)
        U of the first group, and the sum of t^3 - t over its runs of ties.
    n_a, n_b : int

    Returns
    -------
    (n_units,) array, NaN where ``u`` is NaN; 1 where every value is tied.
    """
    n = n_a + n_b
    upper = np.maximum(u, n_a * n_b - u)
    variance = n_a * n_b / 12 * (n + 1 - tie_term / (n * (n - 1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (upper - n_a * n_b / 2 - 0.5) / np.sqrt(variance)
    p_value = np.minimum(2 * ndtr(-z), 1)
    exact = (tie_term == 0) & ~np.isnan(u)
    if min(n_a, n_b) <= EXACT_UP_TO and exact.any():
        tail = upper_tail(min(n_a, n_b), max(n_a, n_b))
        p_value[exact] = np.minimum(2 * tail[upper[exact].astype(int)], 1)
    return p_value


@lru_cache(maxsize=64)
def upper_tail(m: int, n: int) -> np.ndarray:
    """P(U >= u) for u = 0..m*n without ties, from exact integer counts, (m*n + 1,).

    The number of orders with each U are the coefficients of the Gaussian binomial
    ``prod over i = 1..m of (1 - q^(n + i)) / (1 - q^i)``.
    """
    counts = [1] + [0] * (m * n)
    for i in range(1, m + 1):
        for u in range(m * n, n + i - 1, -1):
            counts[u] -= counts[u - n - i]
        for u in range(i, m * n + 1):
            counts[u] += counts[u - i]
    at_least = list(accumulate(reversed(counts)))[::-1]
    return np.array([count / at_least[0] for count in at_least])

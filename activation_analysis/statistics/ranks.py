"""Rank sums of every unit, and the null distribution of the Mann-Whitney U.

Ranks come from one sort per unit, done for a block of units at a time; only units that have
ties pay for midranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

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
    # Sums of ranks are whole numbers, exact in float32 as far as it counts by ones.
    exact = np.float32 if n * (n + 1) / 2 < 2**24 else np.float64
    ranks = np.arange(1, n + 1, dtype=exact)
    for columns in column_blocks(n, n_units):
        pooled = np.concatenate([a[:, columns], b[:, columns]])
        ascending = _labels_ascending(pooled, len(a))
        of_first = ascending.of_first.astype(exact)
        first[columns] = of_first @ ranks
        tied = np.flatnonzero(ascending.same_as_before.any(axis=1))
        if len(tied):
            shared, run_length = _midranks(ascending.same_as_before[tied])
            first[columns.start + tied] = (shared * of_first[tied]).sum(axis=1)
            tie_term[columns.start + tied] = (run_length**2 - 1.0).sum(axis=1)
        first[columns][ascending.has_nan] = np.nan
    return RankSums(first, tie_term)


def midranks(x: np.ndarray) -> np.ndarray:
    """Ranks of every column, ties sharing their mean rank; all NaN where a value is NaN.

    Parameters
    ----------
    x : (n, k)
        A block of units: several arrays of its size are held at once.

    Returns
    -------
    (n, k) float64 array
    """
    n, k = x.shape
    ascending = _ascending(x)
    shared = np.broadcast_to(np.arange(1.0, n + 1), (k, n))
    tied = np.flatnonzero(ascending.same_as_before.any(axis=1))
    if len(tied):
        shared = shared.copy()
        shared[tied] = _midranks(ascending.same_as_before[tied])[0]
    ranks = np.empty((k, n))
    np.put_along_axis(ranks, ascending.order, shared, axis=1)
    ranks[ascending.has_nan] = np.nan
    return ranks.T


def placements(pooled: np.ndarray, n_first: int) -> tuple[np.ndarray, np.ndarray]:
    """Of every value how many of the other group lie below it, those equal to it counting half.

    Parameters
    ----------
    pooled : (n, k)
        A block of units, the first group's rows first.
    n_first : int

    Returns
    -------
    (n_first, k) and (n - n_first, k) float64 arrays, NaN throughout where a value is NaN
    """
    ranks = midranks(pooled)
    first, second = pooled[:n_first], pooled[n_first:]
    return ranks[:n_first] - midranks(first), ranks[n_first:] - midranks(second)


class _Ascending(NamedTuple):
    """The values of every unit in ascending order, one unit a row."""

    order: np.ndarray  # (k, n) where each came from
    same_as_before: np.ndarray  # (k, n - 1) bool
    has_nan: np.ndarray  # (k,) bool


class _LabelsAscending(NamedTuple):
    """What is left of `_Ascending` for rank sums."""

    of_first: np.ndarray  # (k, n) bool: the value comes from the first group
    same_as_before: np.ndarray
    has_nan: np.ndarray


def _ascending(x: np.ndarray) -> _Ascending:
    """Sort every column of (n, k), in rows: a sort along axis 0 would stride through memory."""
    if x.dtype not in (np.float16, np.float32):
        pooled = np.ascontiguousarray(x.T)
        order = np.argsort(pooled, axis=1)
        values = np.take_along_axis(pooled, order, axis=1)
        has_nan = np.isnan(values[:, -1:]).any(axis=1)  # NaN sorts last
        return _Ascending(order, values[:, 1:] == values[:, :-1], has_nan)
    # Value and row number in one integer, value first: one sort of integers, no argsort.
    values = _ordered_integers(x)
    keys = np.empty(x.shape[::-1], dtype=np.int64)
    keys[:] = values.T
    keys <<= 32
    keys |= np.arange(len(x))
    keys.sort(axis=1)
    order = keys.astype(np.int32)  # the low half
    keys >>= 32
    return _Ascending(order, keys[:, 1:] == keys[:, :-1], _beyond_infinity(keys))


def _labels_ascending(x: np.ndarray, n_first: int) -> _LabelsAscending:
    """As `_ascending`, where the first ``n_first`` rows are one group and the rest the other."""
    if x.dtype not in (np.float16, np.float32):
        order, same, has_nan = _ascending(x)
        return _LabelsAscending(order < n_first, same, has_nan)
    # The group takes the place of the value's last bit: integers of 32 bits sort five times as
    # fast as the 64 of a value and a row number.
    values = _ordered_integers(x)
    keys = np.empty(x.shape[::-1], dtype=np.int32)
    keys[:] = values.T
    keys &= ~np.int32(1)
    keys[:, n_first:] |= np.int32(1)
    keys.sort(axis=1)
    same = (keys[:, 1:] ^ keys[:, :-1]).view(np.uint32) <= 1
    found = _LabelsAscending((keys & 1) == 0, same, _beyond_infinity(keys & ~np.int32(1)))
    # Where values agree but for that bit, and it is not the same in all, it is needed after all.
    last_bits = (values ^ (values >> 31)) & 1
    needed = np.flatnonzero(same.any(axis=1) & last_bits.any(axis=0))
    if len(needed):
        order, found.same_as_before[needed], found.has_nan[needed] = _ascending(x[:, needed])
        found.of_first[needed] = order < n_first
    return found


def _ordered_integers(x: np.ndarray) -> np.ndarray:
    """Integers (n, k) of 32 bits that order as the float32 values do; NaN beyond infinity."""
    bits = (x + np.float32(0)).view(np.int32)  # 0 and -0 are one value
    # Two's complement orders positive floats as they are, and negative ones backwards.
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    return bits


def _beyond_infinity(ascending: np.ndarray) -> np.ndarray:
    """Where sorted integers of float32 values hold NaN, (k,) bool."""
    infinity = int(np.float32(np.inf).view(np.int32))
    # The last bit is of no account: arithmetic has set the highest bit of every NaN.
    beyond = (ascending[:, -1:] > infinity + 1) | (ascending[:, :1] < ~infinity - 1)
    return beyond.any(axis=1)


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


def rank_test_p_values(
    u: np.ndarray, tie_term: np.ndarray, n_a: int, n_b: int, exact_up_to: int = EXACT_UP_TO
) -> np.ndarray:
    """Two-sided p-value of U: exact for small groups without ties, else normal, per unit.

        z = (abs(U - m) - 1/2) / sqrt(n_a n_b / 12 * (n + 1 - ties / (n (n - 1)))),  m = n_a n_b / 2

    Parameters
    ----------
    u, tie_term : (n_units,)
        U of the first group, and the sum of t^3 - t over its runs of ties.
    n_a, n_b : int
    exact_up_to : prompts in the smaller group up to which p is exact

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
    if min(n_a, n_b) <= exact_up_to and exact.any():
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

"""How precisely does a design measure a difference?

Every t-test of one difference is known by two numbers, a standard error and degrees of freedom.
Each design here says its own; `power` takes it from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from activation_analysis.statistics.clustering import (
    checked_icc,
    effective_prompts,
    sizes_by_side,
)


@dataclass(frozen=True)
class Precision:
    """How well a design measures one difference, in the standard deviations it is stated in."""

    standard_error: float
    df: float


def two_groups(n_a: int, n_b: int) -> Precision:
    """Two independent groups, for Cohen's d: sqrt(1/n_a + 1/n_b) with n_a + n_b - 2 df."""
    if min(n_a, n_b) < 2:
        raise ValueError(f"groups of {n_a} and {n_b} prompts cannot be tested; at least 2 each")
    return Precision(float(np.sqrt(1 / n_a + 1 / n_b)), n_a + n_b - 2)


def pairs(n: int) -> Precision:
    """Pairs, or one sample against a fixed value, for d_z: 1/sqrt(n) with n - 1 df.

    d_z is the mean difference over the standard deviation *of the differences*; with a
    correlation r inside the pairs, d_z = d / sqrt(2 (1 - r)), which is d at r = .5.
    """
    if n < 2:
        raise ValueError(f"{n} pair{'s' * (n != 1)} cannot be tested; at least 2")
    return Precision(float(1 / np.sqrt(n)), n - 1)


def weighted_means(weights: Sequence[float], sizes: Sequence[int]) -> Precision:
    """A linear contrast of k independent groups, for (sum w_i mean_i) / SD within groups.

        standard error = sqrt(sum w_i^2 / n_i),  df = N - k

    Groups with weight 0 add to the degrees of freedom alone.
    """
    w, n = np.asarray(weights, dtype=float), np.asarray(sizes, dtype=float)
    if w.shape != n.shape or w.ndim != 1 or len(w) < 2:
        raise ValueError(f"{w.size} weights and {n.size} sizes; give one of each per group")
    if n.min() < 1 or n.sum() <= len(n) or not np.any(w):
        raise ValueError(
            f"a contrast with weights {list(weights)} of groups of {list(sizes)} prompts cannot "
            f"be tested; give some weight, and more prompts than groups"
        )
    return Precision(float(np.sqrt(np.sum(w**2 / n))), float(n.sum() - len(n)))


Design = Callable[[int], Precision]
"""What ``n`` prompts per condition (or pairs) would measure; groups are bound by `partial`."""


def independent(n: int) -> Precision:
    """Two conditions of ``n`` independent prompts each."""
    return two_groups(n, n)


def in_groups(n: int, *, n_groups: int, icc: float) -> Precision:
    """Two conditions of ``n`` prompts each, in ``n_groups`` groups of their own per condition.

    The test that is right compares group means: 2 n_groups - 2 df, and ``n`` counts as
    n / (1 + (n / n_groups - 1) ICC) prompts. More prompts in the same groups end at
    n_groups / ICC of them; at an ICC of 1 only the number of groups counts.
    """
    return _group_means(n, n_groups, icc, n_sides=2)


def pairs_in_groups(n: int, *, n_groups: int, icc: float) -> Precision:
    """``n`` pairs in ``n_groups`` groups; the ICC is that of the differences."""
    return _group_means(n, n_groups, icc, n_sides=1)


def in_both_conditions(n: int, *, n_groups: int, icc: float) -> Precision:
    """Two conditions of ``n`` prompts each, in ``n_groups`` groups that have both conditions.

    Compared within groups, what a group shares drops out: (1 - ICC) 2 / n, with
    2 n - n_groups - 1 df; fewer prompts than groups fill as many groups as they can.
    """
    checked_icc(icc)
    if n < 2 or n_groups < 1 or icc == 1:
        raise ValueError(
            f"{n} prompts per condition in {n_groups} groups with an intraclass correlation of "
            f"{icc} cannot be compared within groups; at least 2 prompts, and less than 1"
        )
    return Precision(float(np.sqrt((1 - icc) * 2 / n)), 2 * n - min(n, n_groups) - 1)


def as_grouped(in_first: np.ndarray, groups: Sequence | np.ndarray, icc: float) -> Precision:
    """The prompts at hand, compared as their groups allow.

    Where every group lies in one condition, group means are compared, each counting the same
    (for unequal groups a little less precise than the best weights). Where some group holds
    both, prompts are compared within groups, and groups in one condition alone tell nothing:

        standard error^2 = (1 - ICC) / sum_g (m_ga m_gb / (m_ga + m_gb)),  df = N - G - 1

    Raises
    ------
    ValueError
        If the labels do not match, or the groups leave no degrees of freedom.
    """
    checked_icc(icc)
    first, second = sizes_by_side(in_first, groups)
    both = (first > 0) & (second > 0)
    if not both.any():
        sides = [size[size > 0] for size in (first, second)]
        if min(map(len, sides)) < 2:
            raise ValueError(
                f"{len(sides[0])} and {len(sides[1])} groups in the two conditions: what one "
                f"group has of its own and what its condition does cannot be told apart; at "
                f"least 2 groups each"
            )
        variance = sum(np.mean((1 + (m - 1) * icc) / m) / len(m) for m in sides)
        return Precision(float(np.sqrt(variance)), sum(map(len, sides)) - 2)
    paired = np.sum(first[both] * second[both] / (first + second)[both])
    df = int(first.sum() + second.sum()) - len(first) - 1
    if df < 1 or icc == 1:
        raise ValueError(
            f"{len(first)} groups that hold both conditions leave {df} degrees of freedom at an "
            f"intraclass correlation of {icc}; give pairs to a paired test"
        )
    return Precision(float(np.sqrt((1 - icc) / paired)), df)


def _group_means(n: int, n_groups: int, icc: float, n_sides: int) -> Precision:
    checked_icc(icc)
    if n_groups < 2:
        raise ValueError(f"{n_groups} group{'s' * (n_groups != 1)} per condition; at least 2")
    if n < 2:
        raise ValueError(f"{n} prompt{'s' * (n != 1)} per condition cannot be tested; at least 2")
    counted = effective_prompts(n, max(n / n_groups, 1.0), icc)
    return Precision(float(np.sqrt(n_sides / counted)), n_sides * (min(n, n_groups) - 1))

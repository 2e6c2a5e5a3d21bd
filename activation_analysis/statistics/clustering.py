"""Prompts that share a template, an author or a source: how alike are they, and what does it cost?

A test that takes grouped prompts for independent is wrong by a known amount: how often it would
call a unit significant that does not respond follows from the groups and one correlation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

UNITS_AT_ONCE = 4096
ROUNDING = 1e-12  # of a unit's largest value: a spread that is none


def design_effect(group_size: float, icc: float) -> float:
    """How much grouping inflates the variance of a mean: 1 + (m - 1) ICC.

    References
    ----------
    Kish (1965), Survey Sampling, ch. 5.
    """
    if group_size < 1:
        raise ValueError(f"groups of {group_size} prompts; at least 1")
    return 1 + (group_size - 1) * icc


def effective_prompts(n: float, group_size: float, icc: float) -> float:
    """How many independent prompts ``n`` grouped ones are worth: n / (1 + (m - 1) ICC).

    At an ICC of 1 only the number of groups counts, n / m.
    """
    return n / design_effect(group_size, icc)


def intraclass_correlation(
    x: np.ndarray, groups: Sequence | np.ndarray, conditions: Sequence | np.ndarray | None = None
) -> np.ndarray:
    """ICC(1) of every unit: which share of its variance lies between groups?

        ICC = (MS_between - MS_within) / (MS_between + (n_0 - 1) MS_within)
        n_0 = (N - sum m_g^2 / N) / (G - 1),   the mean size of unequal groups

    One-way analysis of variance. With ``conditions``, condition means are taken out first and
    cost their degrees of freedom, so that an effect of the condition does not pass for
    likeness within groups: exact where each group lies in one condition, or has as many prompts
    in each; approximate in between.

    Negative where groups differ less than chance, down to -1 / (n_0 - 1): do not clip before
    averaging over units. One unit's estimate is coarse with few groups.

    Parameters
    ----------
    x : (n, n_units)
        Activations.
    groups, conditions : (n,) labels

    Returns
    -------
    (n_units,), NaN where a unit is constant or not finite.

    Raises
    ------
    ValueError
        If labels do not match the rows, or there are fewer than two groups (per condition),
        or no group has two prompts.

    References
    ----------
    Shrout & Fleiss (1979), Psychological Bulletin 86:420-428. Donner (1986), International
    Statistical Review 54:67-82 (unequal groups).
    """
    n = len(x)
    layout = _layout(n, groups, np.zeros(n) if conditions is None else conditions)
    result = np.empty(x.shape[1])
    for start in range(0, x.shape[1], UNITS_AT_ONCE):
        columns = slice(start, start + UNITS_AT_ONCE)
        result[columns] = _icc_block(np.asarray(x[:, columns], dtype=np.float64), layout)
    return result


def _icc_block(raw: np.ndarray, layout: _Layout) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        block = raw - layout.condition(raw)
        scale = np.abs(block).max(axis=0)
        constant = scale <= ROUNDING * np.abs(raw).max(axis=0)
        block /= scale  # squares of huge activations would overflow
        expected = layout.group(block)
        between = np.sum(expected**2, axis=0) / layout.df_between
        within = np.sum((block - expected) ** 2, axis=0) / layout.df_within
        icc = (between - within) / (between + (layout.mean_size - 1) * within)
    return np.where(constant, np.nan, icc)


@dataclass(frozen=True)
class _Layout:
    """What the analysis of variance needs of the labels."""

    group: _Means
    condition: _Means
    df_between: int
    df_within: int
    mean_size: float


def _layout(n: int, groups, conditions) -> _Layout:
    group, condition = (
        _Means(_codes(groups, n, "groups")),
        _Means(_codes(conditions, n, "conditions")),
    )
    cells = np.unique(np.stack([group.code, condition.code]), axis=1)
    nested = cells.shape[1] == group.n_groups
    df_between = group.n_groups - (condition.n_groups if nested else 1)
    df_within = n - group.n_groups - (0 if nested else condition.n_groups - 1)
    if df_between < 1 or df_within < 1:
        raise ValueError(
            f"{n} prompts in {group.n_groups} groups and {condition.n_groups} "
            f"condition{'s' * (condition.n_groups != 1)} show no likeness within groups; it takes "
            f"two groups in a condition, and two prompts in a group"
        )
    total = condition.size[cells[1]] if nested else n
    mean_size = (n - np.sum(group.size**2 / total)) / df_between
    return _Layout(group, condition, df_between, df_within, float(mean_size))


class _Means:
    """The mean of its group for every row, by one small product."""

    def __init__(self, code: np.ndarray) -> None:
        self.code = code
        self.size = np.bincount(code).astype(float)
        self.n_groups = len(self.size)
        self.order = np.argsort(code, kind="stable")
        self.first = np.concatenate([[0], np.cumsum(self.size[:-1])]).astype(int)

    def __call__(self, block: np.ndarray) -> np.ndarray:
        sums = np.add.reduceat(block[self.order], self.first, axis=0)
        return (sums / self.size[:, None])[self.code]


def naive_false_positive_rate(
    in_first: np.ndarray,
    groups: Sequence | np.ndarray,
    icc: float,
    alpha: float = 0.05,
) -> float:
    """How often a two-group t-test that ignores the groups calls a null unit significant.

    The difference of means varies by

        V = (1 - ICC) (1/n_a + 1/n_b) + ICC sum_g (m_ga / n_a - m_gb / n_b)^2

    in units of the variance, where the test believes s^2 (1/n_a + 1/n_b). The pooled s^2 has a
    mean and a variance that follow from the group sizes; matched by a scaled chi-square with
    nu degrees of freedom (Satterthwaite),

        rate = 2 P(t_nu > t_crit sqrt(E[s^2] (1/n_a + 1/n_b) / V))

    For groups of m nested in one condition each this is Student's t inflated by
    sqrt(design effect), with the few groups' loss of degrees of freedom. Where groups hold
    both conditions, V is small and the rate lies below alpha: the test misses effects.

    Assumes normal units, one ICC in both conditions, and no interaction of group and
    condition. At alpha .05 within .002 of simulation (160,000 or more units) for equal groups,
    nested or crossed, from five a condition on; .004 with two; .005 for unequal nested groups;
    .012 for very unequal crossed ones. Welch's test is within .004 of Student's in all of them.

    Parameters
    ----------
    in_first : (n,) bool
        Whether a prompt is in the first condition.
    groups : (n,) labels
    icc : float
        Intraclass correlation, 0 to 1.
    alpha : float
        Level of the naive test.

    Returns
    -------
    Rate between 0 and 1.

    Raises
    ------
    ValueError
        If labels do not match, a condition has fewer than two prompts, or the ICC is not from
        0 to 1.
    """
    sizes = sizes_by_side(in_first, groups)
    weights = sizes[0] / max(sizes[0].sum(), 1) - sizes[1] / max(sizes[1].sum(), 1)
    return _naive_rate(sizes, weights, icc, alpha)


def naive_paired_false_positive_rate(
    groups: Sequence | np.ndarray, icc: float, alpha: float = 0.05
) -> float:
    """The same for a paired (or one-sample) t-test that ignores the groups of its pairs.

    ``groups`` has a label for every pair, and ``icc`` is that of the differences.
    """
    size = np.bincount(_codes(groups, len(groups), "groups"))
    return _naive_rate([size], size / size.sum(), icc, alpha)


def _naive_rate(
    sizes: Sequence[np.ndarray], weights: np.ndarray, icc: float, alpha: float
) -> float:
    """``weights``: how much of each group's own mean the tested difference holds."""
    checked_icc(icc)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; it is an error rate between 0 and 1, as 0.05")
    n = [int(size.sum()) for size in sizes]
    if min(n) < 2:
        raise ValueError(f"{' and '.join(map(str, n))} prompts cannot be tested; at least 2 each")
    believed = sum(1 / total for total in n)
    variance = (1 - icc) * believed + icc * np.sum(weights**2)
    mean, spread = _pooled_variance(sizes, icc)
    critical = -stdtrit(sum(n) - len(n), alpha / 2)
    if mean <= 0:  # every prompt of a condition is the same
        return float(variance > 0)
    if variance <= 0:
        return 0.0
    df = 2 * mean**2 / spread
    return float(2 * stdtr(df, -critical * np.sqrt(mean * believed / variance)))


def _pooled_variance(sizes: Sequence[np.ndarray], icc: float) -> tuple[float, float]:
    """Mean and variance of the pooled s^2, a quadratic form in normal prompts.

    With C the centring within conditions and S = (1 - ICC) I + ICC ZZ' the covariance, they are
    tr(CS) and 2 tr(CSCS) over df and df^2; A = Z'CZ holds all that they need of the groups.
    """
    n = [size.sum() for size in sizes]
    df = sum(n) - len(n)
    scaled = [size / np.sqrt(total) for size, total in zip(sizes, n, strict=True)]
    both = np.sum(sizes, axis=0)
    trace = both.sum() - sum(v @ v for v in scaled)
    square = both @ both - 2 * sum(v @ (both * v) for v in scaled)
    square += sum((v @ w) ** 2 for v in scaled for w in scaled)
    own = 1 - icc
    mean = own * df + icc * trace
    spread = own**2 * df + 2 * own * icc * trace + icc**2 * square
    return float(mean / df), float(2 * spread / df**2)


def sizes_by_side(
    in_first: np.ndarray, groups: Sequence | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of every group in the first and in the second condition, each (n_groups,)."""
    in_first = np.asarray(in_first, dtype=bool)
    group = _codes(groups, len(in_first), "groups")
    n_groups = int(group.max()) + 1
    return (
        np.bincount(group[in_first], minlength=n_groups),
        np.bincount(group[~in_first], minlength=n_groups),
    )


def checked_icc(icc: float) -> float:
    """An intraclass correlation that prompts can be planned with."""
    if not 0 <= icc <= 1:
        raise ValueError(f"the intraclass correlation is {icc}; it lies between 0 and 1, as 0.3")
    return icc


def _codes(labels: Sequence | np.ndarray, n: int, what: str) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (n,):
        raise ValueError(f"{what} has shape {labels.shape}; expected one label per prompt, ({n},)")
    return np.unique(labels, return_inverse=True)[1]

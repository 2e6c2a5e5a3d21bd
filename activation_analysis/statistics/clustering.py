"""Prompts that share a template, an author or a source: how alike are they, what are they worth?

What a test claims that takes them for independent: `naive_tests`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
        _Means(label_codes(groups, n, "groups")),
        _Means(label_codes(conditions, n, "conditions")),
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


def sizes_by_side(
    in_first: np.ndarray, groups: Sequence | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of every group in the first and in the second condition, each (n_groups,)."""
    in_first = np.asarray(in_first, dtype=bool)
    group = label_codes(groups, len(in_first), "groups")
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


def label_codes(labels: Sequence | np.ndarray, n: int, what: str) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (n,):
        raise ValueError(f"{what} has shape {labels.shape}; expected one label per prompt, ({n},)")
    return np.unique(labels, return_inverse=True)[1]

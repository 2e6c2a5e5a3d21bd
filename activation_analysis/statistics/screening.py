"""Which units can be tested at all, and why the others cannot.

A unit is judged on its own column only, so that one NaN in one unit leaves every other
number of an analysis as it was.
"""

from __future__ import annotations

import numpy as np

from activation_analysis.statistics.moments import column_blocks, constant, two_groups

REASONS = ("nan", "inf", "constant")


def exclusion_reasons(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Why a unit cannot be tested, as text: does every column hold usable numbers?

    ``"nan"`` a value is missing; ``"inf"`` a value overflowed (and none is missing);
    ``"constant"`` neither group varies, so that there is no error to measure a difference
    against, even where the two constants differ; ``""`` the unit can be tested.

    Parameters
    ----------
    a, b : (n_a, n_units) and (n_b, n_units)
        Activations of the two groups.

    Returns
    -------
    (n_units,) array of str

    Raises
    ------
    ValueError
        If the groups are not two matrices of the same units with two prompts or more each.
    """
    a, b = two_groups(a, b)
    reasons = np.full(a.shape[1], "", dtype=f"<U{max(map(len, REASONS))}")
    reasons[constant(a) & constant(b)] = "constant"
    for columns in column_blocks(len(a) + len(b), a.shape[1]):
        both = (a[:, columns], b[:, columns])
        reason = reasons[columns]  # a view
        reason[np.logical_or(*(np.isinf(x).any(axis=0) for x in both))] = "inf"
        reason[np.logical_or(*(np.isnan(x).any(axis=0) for x in both))] = "nan"
    return reasons

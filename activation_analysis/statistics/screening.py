"""Which units can be tested at all, and why the others cannot.

A unit is judged on its own column only, so that one NaN in one unit leaves every other
number of an analysis as it was.
"""

from __future__ import annotations

import numpy as np

from activation_analysis.statistics.moments import Sample, two_moments

REASONS = ("nan", "inf", "constant")


def exclusion_reasons(a: Sample, b: Sample) -> np.ndarray:
    """Why a unit cannot be tested, as text: does every column hold usable numbers?

    ``"nan"`` a value is missing; ``"inf"`` a value overflowed (and none is missing);
    ``"constant"`` neither group varies, so that there is no error to measure a difference
    against, even where the two constants differ; ``""`` the unit can be tested.

    Parameters
    ----------
    a, b : (n_a, n_units) and (n_b, n_units), or Moments of both
        Activations of the two groups.

    Returns
    -------
    (n_units,) array of str

    Raises
    ------
    ValueError
        If the groups are not two matrices of the same units with two prompts or more each.
    """
    both = two_moments(a, b)
    reasons = np.full(both[0].n_units, "", dtype=f"<U{max(map(len, REASONS))}")
    reasons[np.logical_and(*(m.sum_squares == 0 for m in both))] = "constant"
    spoiled = both[0].nonfinite + both[1].nonfinite
    reasons[np.isinf(spoiled)] = "inf"
    reasons[np.isnan(spoiled)] = "nan"
    return reasons

"""Which units can be tested at all, and why the others cannot.

A unit is judged on its own column only, so that one NaN in one unit leaves every other
number of an analysis as it was.
"""

from __future__ import annotations

import numpy as np

from activation_analysis.statistics.moments import Sample, several_moments

REASONS = ("nan", "inf", "constant")


def exclusion_reasons(*groups: Sample) -> np.ndarray:
    """Why a unit cannot be tested, as text: does every column hold usable numbers?

    ``"nan"`` a value is missing; ``"inf"`` a value overflowed (and none is missing);
    ``"constant"`` no group varies, so that there is no error to measure a difference
    against, even where the two constants differ; ``""`` the unit can be tested.

    Parameters
    ----------
    groups : matrices (n_k, n_units), or Moments, of two groups or more

    Returns
    -------
    (n_units,) array of str

    Raises
    ------
    ValueError
        If the groups are not two matrices of the same units with two prompts or more each.
    """
    known = several_moments(groups)
    reasons = np.full(known[0].n_units, "", dtype=f"<U{max(map(len, REASONS))}")
    reasons[np.all([m.sum_squares == 0 for m in known], axis=0)] = "constant"
    spoiled = sum(m.nonfinite for m in known)
    reasons[np.isinf(spoiled)] = "inf"
    reasons[np.isnan(spoiled)] = "nan"
    return reasons

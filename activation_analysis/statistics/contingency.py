"""Does a mark occur more often in one class than in the rest?"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln


def fisher_exact(hits: np.ndarray, total: np.ndarray, n_class: int, n: int) -> np.ndarray:
    """Two-sided Fisher's exact test of many 2 x 2 tables with one class size, (n_tables,) p.

    The sum of the hypergeometric probabilities that do not exceed that of the table.

    Parameters
    ----------
    hits : (n_tables,) int
        Observations of the class that have the mark.
    total : (n_tables,) int
        All observations that have it.
    n_class, n : observations of the class, and in all

    Raises
    ------
    ValueError
        If the numbers are those of no table.

    References
    ----------
    Fisher (1935), Journal of the Royal Statistical Society 98:39-82.
    """
    hits, total = np.asarray(hits), np.asarray(total)
    lowest, highest = np.maximum(0, total - (n - n_class)), np.minimum(total, n_class)
    if np.any((hits < lowest) | (hits > highest)):
        raise ValueError(f"no table of {n} has such margins: a class of {n_class}, hits {hits}")
    p = np.empty(len(hits))
    for margin in np.unique(total):
        of_margin = np.flatnonzero(total == margin)
        possible = np.arange(max(0, margin - (n - n_class)), min(margin, n_class) + 1)
        log_p = _log_choose(n_class, possible) + _log_choose(n - n_class, margin - possible)
        probability = np.exp(log_p - _log_choose(n, margin))
        seen = probability[hits[of_margin] - possible[0]]
        # Tables that are as improbable tie; rounding must not tell them apart.
        at_most = probability[None, :] <= seen[:, None] * (1 + 1e-7)
        p[of_margin] = np.minimum((probability * at_most).sum(axis=1), 1.0)
    return p


def _log_choose(n: int, k: np.ndarray | int) -> np.ndarray:
    return gammaln(n + 1) - gammaln(np.add(k, 1)) - gammaln(np.subtract(n, k) + 1)

"""Two-sided p-values of Student's t, many at once.

With a = df/2, T = a - 1/4, L = log(1 + t^2/df) and u = T L, the incomplete beta function that
is the p-value has an expansion whose terms vanish fast where T is large:

    p = S(t) / S(0),   S = sum_k c_k J_k,   J_0 = erfc(sqrt(u))
    J_k = ((2k - 3/2)(2k - 1/2) J_{k-1} + (u + 2k - 1/2) (L/2)^(2k-2) h) / (4 T^2)
    h = sqrt(u / pi) exp(-u)

Nothing is subtracted from 1, so that p-values of 1e-100 keep their digits.

Didonato & Morris (1992), ACM Transactions on Mathematical Software 18:360-373, eq. 9.
"""

from __future__ import annotations

from math import factorial, prod

import numpy as np
from scipy.special import erfc, stdtr

FEWEST_DF = 30.0  # below, and from LARGEST_L on, the expansion needs more terms
LARGEST_L = 0.5
N_TERMS = 6
BLOCK = 4096  # values at once: a dozen arrays of them stay in cache


def two_sided_p(t: np.ndarray, df: np.ndarray) -> np.ndarray:
    """P(abs(T) >= abs(t)) of Student's t, to a few units in the last place.

    Parameters
    ----------
    t, df : (n_units,) each

    Returns
    -------
    (n_units,) array, NaN where either is NaN
    """
    p = np.empty(len(t))
    for start in range(0, len(t), BLOCK):
        part = slice(start, start + BLOCK)
        p[part] = _expansion(t[part], df[part])
    with np.errstate(invalid="ignore", over="ignore"):
        expanded = (df >= FEWEST_DF) & (t * t < (np.e**LARGEST_L - 1) * df)
    rest = np.flatnonzero(~expanded)
    p[rest] = 2 * stdtr(df[rest], -np.abs(t[rest]))
    return p


def _expansion(t: np.ndarray, df: np.ndarray) -> np.ndarray:
    large = df / 2 - 0.25
    with np.errstate(all="ignore"):  # where it does not hold, it is not used
        log = np.log1p(t * t / df)
        u = large * log
        root = np.sqrt(u)
        per_step = 0.25 / (large * large)
        log *= 0.5
        log *= log
        source = root * np.exp(-u)
        source *= per_step / np.sqrt(np.pi)
        term = erfc(root)
        total = term.copy()
        for k, c in enumerate(COEFFICIENTS, 1):
            term *= per_step
            term *= (2 * k - 1.5) * (2 * k - 0.5)
            term += (u + (2 * k - 0.5)) * source
            source *= log
            total += c * term
        at_zero = np.zeros(len(t))
        for weight in reversed(WEIGHTS_AT_ZERO):
            at_zero += weight
            at_zero *= per_step
        at_zero += 1
        return np.minimum(total / at_zero, 1.0)


def _coefficients(n: int) -> list[float]:
    """c_1..c_n of the expansion for b = 1/2."""
    c = [1.0]
    for k in range(1, n + 1):
        earlier = sum((m / 2 - k) * c[k - m] / factorial(2 * m + 1) for m in range(1, k))
        c.append(earlier / k - 0.5 / factorial(2 * k + 1))
    return c[1:]


COEFFICIENTS = _coefficients(N_TERMS)
WEIGHTS_AT_ZERO = [
    c * prod((2 * j - 1.5) * (2 * j - 0.5) for j in range(1, k + 1))
    for k, c in enumerate(COEFFICIENTS, 1)
]

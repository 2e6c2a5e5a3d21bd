"""The noncentral t distribution, for powers and for intervals of effect sizes.

``scipy.stats.nct.cdf`` is NaN where power is high (d = 2 at 60 + 60 prompts, alpha = .001), and
``scipy.special.nctdtrinc`` stops at seven digits; hence this quadrature (scipy 1.17).
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaincc, gammainccinv, gammaincinv, nctdtrinc, ndtr

from activation_analysis.statistics.interpolation import interpolated

NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)
NEGLIGIBLE = 1e-18  # probability left out at either end of the integrals
FARTHEST_Z = 9.0  # the same for a normal variable
FARTHEST_T = 200  # times sqrt(2 df): no larger t is solved for
GRID_STEP = 1 / 64
MOST_STEPS = 8
ROWS = 4096  # values of t at once, so that no array grows with n_units x nodes


def cdf(t: np.ndarray | float, df: float, noncentrality: np.ndarray | float) -> np.ndarray:
    """P(T <= t) for T = (Z + noncentrality) / S, with S^2 a chi-square over its df.

        E over S of Phi(t S - noncentrality)              where abs(t) <= sqrt(2 df)
        E over Z of P(S >= (Z + noncentrality) / t)       elsewhere

    Each form is smooth where it is used. Absolute error about 1e-13.

    Parameters
    ----------
    t, noncentrality : scalars or arrays that broadcast
    df : float
        At least 1.
    """
    return _in_rows(_cdf_block, t, df, noncentrality)


def noncentrality_at(t: np.ndarray | float, df: float, probability: float) -> np.ndarray:
    """The noncentrality for which P(T <= t) = probability, in the shape of ``t``.

    Newton steps on the quadrature from scipy's ``nctdtrinc``, in which time grows with t; from
    abs(t) = 200 sqrt(2 df) on, its expansion in 1 / t^2. NaN where ``t`` is NaN or infinite.
    """
    t = np.asarray(t, dtype=float)
    farthest = FARTHEST_T * np.sqrt(2 * df)
    solution = np.full(t.shape, np.nan)
    near, above, below = np.abs(t) <= farthest, t > farthest, t < -farthest
    solution[near] = _solved(t[near], df, probability)
    if above.any():
        solution[above] = _far_noncentrality(t[above], df, probability)
    if below.any():
        solution[below] = -_far_noncentrality(-t[below], df, 1 - probability)
    return solution[()]


def noncentralities_at(t: np.ndarray, df: float, probability: float) -> np.ndarray:
    """``noncentrality_at`` of any number of finite t >= 0, in the time of a few hundred of them.

    Many t are interpolated: noncentrality / cosh(x) over x = asinh(t / sqrt(2 df)), which is
    nearly a line in tanh(x). Within 1e-9 max(1, t) of the exact solution.
    """
    spread = np.sqrt(2 * df)
    x = np.arcsinh(np.asarray(t, dtype=float) / spread)

    def over_cosh(x: np.ndarray) -> np.ndarray:
        return noncentrality_at(spread * np.sinh(x), df, probability) / np.cosh(x)

    # A spline is at its worst beside its end: begin a little below 0.
    return interpolated(over_cosh, x, step=GRID_STEP, start=-8 * GRID_STEP) * np.cosh(x)


def _solved(t: np.ndarray, df: float, probability: float) -> np.ndarray:
    solution = np.asarray(nctdtrinc(df, probability, t), dtype=float)
    # Two steps do, but for some t near 0, where nctdtrinc stops at one digit (scipy 1.17).
    for _ in range(MOST_STEPS):
        off = cdf(t, df, solution) - probability
        solution = solution + off / _in_rows(_slope_block, t, df, solution)
        # Steps square the error: after one from here it is rounding.
        if not np.any(np.abs(off) > 1e-9 * min(probability, 1 - probability)):
            break
    return solution


def _far_noncentrality(t: np.ndarray, df: float, probability: float) -> np.ndarray:
    """A parabola in 1 / t^2 of noncentrality / t, through three solved values."""
    at = FARTHEST_T * np.sqrt(2 * df) * np.array([0.4, 0.6, 1.0])
    parabola = np.polyfit((at[-1] / at) ** 2, _solved(at, df, probability) / at, 2)
    return np.where(np.isinf(t), np.nan, t * np.polyval(parabola, (at[-1] / t) ** 2))


def _in_rows(function, t, df, noncentrality) -> np.ndarray:
    t, noncentrality = np.broadcast_arrays(
        np.asarray(t, dtype=float), np.asarray(noncentrality, dtype=float)
    )
    flat_t, flat_noncentrality, result = t.ravel(), noncentrality.ravel(), np.empty(t.size)
    near = np.abs(flat_t) <= np.sqrt(2 * df)
    for form, chosen in (("s", np.flatnonzero(near)), ("z", np.flatnonzero(~near))):
        for start in range(0, len(chosen), ROWS):
            rows = chosen[start : start + ROWS]
            result[rows] = function(
                form, flat_t[rows, None], float(df), flat_noncentrality[rows, None]
            )
    return result.reshape(t.shape)[()]


def _cdf_block(form: str, t: np.ndarray, df: float, noncentrality: np.ndarray) -> np.ndarray:
    if form == "s":
        s, weights = _spread_nodes(df)
        return ndtr(t * s - noncentrality) @ weights
    # Mirror a negative t: P(T <= t | delta) = 1 - P(T <= -t | -delta).
    sign = np.sign(t)
    below = _cdf_at_large_t(np.abs(t), df, sign * noncentrality)
    return np.where(sign[:, 0] < 0, 1 - below, below)


def _cdf_at_large_t(t: np.ndarray, df: float, noncentrality: np.ndarray) -> np.ndarray:
    # Below z = -noncentrality the event is sure; its kink is where the integral starts.
    start = np.clip(-noncentrality, -FARTHEST_Z, FARTHEST_Z)
    half_width = (FARTHEST_Z - start) / 2
    z = start + half_width * (NODES + 1)
    density = WEIGHTS * half_width * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    spread = np.maximum(z + noncentrality, 0) / t
    integral = (gammaincc(df / 2, df / 2 * spread**2) * density).sum(axis=1)
    return np.minimum(ndtr(-noncentrality[:, 0]) + integral, 1)


def _slope_block(form: str, t: np.ndarray, df: float, noncentrality: np.ndarray) -> np.ndarray:
    """Minus the derivative of the cdf by the noncentrality, for any t."""
    if form == "s":
        s, weights = _spread_nodes(df)
        return np.exp(-((t * s - noncentrality) ** 2) / 2) @ weights / np.sqrt(2 * np.pi)
    step = 1e-4 * np.maximum(1, np.abs(noncentrality))
    ends = [_cdf_block(form, t, df, noncentrality + move) for move in (-step, step)]
    return (ends[0] - ends[1]) / (2 * step[:, 0])


def _spread_nodes(df: float) -> tuple[np.ndarray, np.ndarray]:
    low = np.sqrt(gammaincinv(df / 2, NEGLIGIBLE) * 2 / df)
    high = np.sqrt(gammainccinv(df / 2, NEGLIGIBLE) * 2 / df)
    s = low + (high - low) * (NODES + 1) / 2
    log_density = (df - 1) * np.log(s) - df / 2 * (s**2 - 1)
    weights = WEIGHTS * np.exp(log_density - log_density.max())
    return s, weights / weights.sum()

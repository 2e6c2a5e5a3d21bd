"""Noncentrality of F, for intervals of the variance that conditions explain."""

from __future__ import annotations

import numpy as np
from scipy.special import fdtri, ncfdtr, ndtri

from activation_analysis.statistics import noncentral_t
from activation_analysis.statistics.interpolation import interpolated

GRID_STEP = 1 / 128
MOST_STEPS = 60
FARTHEST = 2000  # df1 F; scipy 1.17's ncfdtr is wrong, then NaN, from about 10,000 on


def noncentralities_at(f: np.ndarray, df1: float, df2: float, probability: float) -> np.ndarray:
    """The noncentrality for which P(F' <= f) = probability, in the shape of ``f``.

    0 where even the central F reaches ``f`` less often. Newton steps on scipy's ``ncfdtr``; many f
    are interpolated to 1e-9 max(1, noncentrality). Above df1 F = 2000 by way of the noncentral t,
    to a relative 1e-5. NaN where ``f`` is NaN, infinite or negative.
    """
    f = np.asarray(f, dtype=float)
    result = np.where(np.isfinite(f) & (f >= 0), 0.0, np.nan)
    central = fdtri(df1, df2, probability)
    beyond = np.isfinite(f) & (f > central) & (df1 * f <= FARTHEST)
    far = np.isfinite(f) & (f > central) & (df1 * f > FARTHEST)

    def at_log(log_f: np.ndarray) -> np.ndarray:
        return _solved(np.maximum(np.exp(log_f), central), df1, df2, probability)

    if beyond.any():
        # A line in log(F) where F is small, and smooth in it everywhere.
        found = interpolated(at_log, np.log(f[beyond]), step=GRID_STEP, start=np.log(central))
        result[beyond] = np.maximum(found, 0)
    if far.any():
        result[far] = _by_t(f[far], df1, df2, probability)
    return result


def _by_t(f: np.ndarray, df1: float, df2: float, probability: float) -> np.ndarray:
    """F' as the square of a noncentral t, its numerator normal with the moments of a chi'.

    mean^2 = c + k + k^2 / (4 c), variance = 1 - k / (2 c), with k = df1 - 1 and noncentrality c.
    """
    k, t = df1 - 1, np.sqrt(df1 * f)
    solution = df1 * f
    for _ in range(4):
        sd = np.sqrt(1 - k / (2 * solution))
        mean = sd * noncentral_t.noncentralities_at(t / sd, df2, probability)
        solution = np.maximum(mean**2 - k - k**2 / (4 * solution), 1 + k)
    return solution


def _solved(f: np.ndarray, df1: float, df2: float, probability: float) -> np.ndarray:
    # scipy 1.17's ncfdtrinc is a poor start, or NaN, at probabilities near 1. This one is normal.
    square = df1 * f
    start = np.sqrt(square) - ndtri(probability) * np.sqrt(1 + square / (2 * df2))
    low, high = np.zeros_like(f), 40 * square + 1000
    solution = np.minimum(np.maximum(start, 0.1) ** 2, high)
    for _ in range(MOST_STEPS):
        below = ncfdtr(df1, df2, solution, f)
        low = np.where(below > probability, solution, low)
        high = np.where(below > probability, high, np.minimum(solution, high))
        # A chi-square of noncentrality c is Poisson(c / 2) further pairs of df.
        slope = (below - ncfdtr(df1 + 2, df2, solution, f * df1 / (df1 + 2))) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            step = solution + (below - probability) / slope
        # Newton where it stays between the limits known so far, else their middle.
        solution = np.where((step >= low) & (step <= high), step, (low + high) / 2)
        if not np.any(np.abs(below - probability) > 1e-9 * min(probability, 1 - probability)):
            break
    return solution

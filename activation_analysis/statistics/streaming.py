"""Moments of a group whose prompts come in batches: one pass, no prompt kept.

Batches, and the parts that several processes have seen, merge pairwise:

    n     = n_a + n_b,    step = mean(b) - mean(a)
    mean  = mean(a) + step * n_b / n
    ss    = ss(a) + ss(b) + step^2 * n_a * n_b / n

Nothing is subtracted from a sum of squares, so that an offset of 1e4 costs nothing. The order
of merging shows at rounding only; a constant unit keeps a sum of squares of exactly 0.

Chan, Golub & LeVeque (1979), Stanford STAN-CS-79-773; (1983), American Statistician 37:242-247.
"""

from __future__ import annotations

import numpy as np

from activation_analysis.statistics.moments import Moments, mean_difference, moments


def added(before: Moments | None, x: np.ndarray) -> Moments:
    """What is known of a group once a batch of its prompts has come.

    Parameters
    ----------
    before : Moments or None
        Of the prompts that came earlier; None where there are none.
    x : (n, n_units)
        The new prompts, one or more. NaN and inf spoil their own unit only.

    Returns
    -------
    Moments
        Of all of them, in float64.
    """
    return moments(x) if before is None else merged(before, moments(x))


def merged(a: Moments, b: Moments) -> Moments:
    """Moments of the prompts of both, as the module's equation has it.

    Parameters
    ----------
    a, b : Moments
        Of different prompts at the same units.

    Returns
    -------
    Moments

    Raises
    ------
    ValueError
        If the units do not match.
    """
    if a.n_units != b.n_units:
        raise ValueError(
            f"moments of {a.n_units} and of {b.n_units} units do not merge; both must be of the "
            f"same site and layer of one model"
        )
    n = a.n + b.n
    with np.errstate(invalid="ignore", over="ignore"):
        step = mean_difference(b, a)
        return Moments(
            n=n,
            origin=a.origin,
            offset=a.offset + step * (b.n / n),
            sum_squares=a.sum_squares + b.sum_squares + step**2 * (a.n * b.n / n),
            nonfinite=a.nonfinite + b.nonfinite,  # inf stays inf, and NaN stays NaN
        )


def packed(m: Moments) -> np.ndarray:
    """The arrays as the rows of one, (4, n_units) float64, for files and messages; without n."""
    return np.stack([getattr(m, name) for name in Moments.PER_UNIT])


def unpacked(n: int, rows: np.ndarray) -> Moments:
    """The Moments of ``n`` prompts that `packed` made ``rows`` of."""
    return Moments(n, *rows)

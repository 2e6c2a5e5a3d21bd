"""Bringing units to one scale, so that a few massive ones do not decide a summary of many.

A handful of residual coordinates of a language model are a hundred times larger than the rest
(massive activations). A test of each unit by itself does not mind; a correlation, a distance or
a CKA over units hears nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

MAD_TO_SD = 1.482602218505602  # 1 / the standard normal's third quartile
TOP_UNITS = 3


def unscaled(x: np.ndarray) -> np.ndarray:
    """The values as they are."""
    return np.asarray(x)


def z_scored(x: np.ndarray) -> np.ndarray:
    """(x - mean) / sd of every unit; 0 where a unit does not vary.

    Parameters
    ----------
    x : (n, n_units)

    Returns
    -------
    (n, n_units) float64
    """
    x = np.asarray(x, dtype=np.float64)
    return _divided(x - x.mean(axis=0), x.std(axis=0, ddof=1))


def robust_z_scored(x: np.ndarray) -> np.ndarray:
    """(x - median) / (1.4826 * median absolute deviation) of every unit.

    As `z_scored` for normal data, but a few extreme prompts neither move nor stretch the scale.
    0 throughout where more than half of a unit's values are the same.

    Parameters, result : as `z_scored`.

    References
    ----------
    Rousseeuw & Croux (1993), JASA 88:1273-1283.
    """
    x = np.asarray(x, dtype=np.float64)
    centred = x - np.median(x, axis=0)
    return _divided(centred, MAD_TO_SD * np.median(np.abs(centred), axis=0))


SCALINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": unscaled,
    "z": z_scored,
    "robust_z": robust_z_scored,
}


def top_variance_share(variance: np.ndarray, n_top: int = TOP_UNITS) -> float:
    """The share of all units' variance that the few largest have; NaN where nothing varies.

    ``n_top / n_units`` if all vary alike; near 1 where massive units would decide any summary
    that adds up over units.

    Parameters
    ----------
    variance : (n_units,), NaN left out
    """
    known = variance[np.isfinite(variance)]
    total = known.sum()
    return float(np.sort(known)[-n_top:].sum() / total) if total > 0 else float("nan")


def _divided(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.divide(x, scale, out=np.zeros_like(x), where=scale > 0)
